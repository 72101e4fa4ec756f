"""A sender over gRPC's own client: for TLS and proxies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from delugeserve.load.senders.base import Done, deliver
from delugeserve.load.senders.messages import Messages
from delugeserve.load.target import Target
from delugeserve_client.address import parse_address
from delugeserve_client.credentials import Credentials
from delugeserve_client.proxies import find_proxy

METHOD = "/inference.GRPCInferenceService/ModelInfer"


class GrpcSender:
    """Sends messages that were serialised before over one gRPC channel, without retries.

    Raises:
        ClientError: the server cannot be asked.
    """

    def __init__(self, target: Target) -> None:
        import grpc

        address = parse_address(target.url)
        credentials = target.credentials or Credentials.from_environment()
        self._messages = Messages(target)
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),  # a request that fails once has failed
            ("grpc.enable_http_proxy", int(find_proxy(address.host) is not None)),
        ]
        if address.secure:
            secrets = credentials.grpc_credentials(grpc)
            self._channel = grpc.secure_channel(address.host, secrets, options)
        else:
            self._channel = grpc.insecure_channel(address.host, options)
        self._call = self._channel.unary_unary(METHOD)
        key = credentials.api_key
        self._metadata = (("authorization", f"Bearer {key}"),) if key else None
        self._timeout = target.timeout
        self._ok = grpc.StatusCode.OK

    def send(self, sample_ids: Sequence[int], done: Done) -> None:  # noqa: D102
        ok, read = self._ok, self._messages.read

        def answered(call: Any) -> None:
            if call.code() is ok:
                deliver(done, read, call.result())
            else:
                done(None, f"{call.code().name}: {call.details()}")

        message = self._messages.build(sample_ids)
        call = self._call.future(message, timeout=self._timeout, metadata=self._metadata)
        call.add_done_callback(answered)

    def close(self) -> None:  # noqa: D102
        self._channel.close()
