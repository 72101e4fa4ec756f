"""Senders: what takes the samples of a load test to a server and brings back the answers.

A sender must cost little: it shares the machine with the server that it measures, or must keep up
with a larger one. It therefore builds its messages before the test, and reads of an answer only
what is compared.
"""

from __future__ import annotations

from delugeserve.load.senders.base import Done, OpenSender, Sender
from delugeserve.load.senders.http1 import HttpSender
from delugeserve.load.senders.plain import PlainGrpcSender
from delugeserve.load.senders.secure import GrpcSender
from delugeserve.load.senders.triton_http import TritonHttpSender
from delugeserve.load.target import Target
from delugeserve_client.address import parse_address
from delugeserve_client.proxies import find_proxy

__all__ = [
    "Done",
    "GrpcSender",
    "HttpSender",
    "OpenSender",
    "PlainGrpcSender",
    "Sender",
    "TritonHttpSender",
    "open_sender",
]


def open_sender(target: Target) -> Sender:
    """Return the sender for a target's address.

    Raises:
        ClientError: the server cannot be asked.
    """
    address = parse_address(target.url)
    if address.protocol != "grpc":
        return TritonHttpSender(target)
    if address.secure or find_proxy(address.host) is not None:
        return GrpcSender(target)
    return PlainGrpcSender(target)
