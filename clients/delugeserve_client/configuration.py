"""The arguments of a classifier, checked."""

from __future__ import annotations

import contextlib
import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from delugeserve_client.address import Address, parse_address
from delugeserve_client.core.dispatch import Settings
from delugeserve_client.core.retry import RetryPolicy
from delugeserve_client.credentials import Credentials
from delugeserve_client.errors import AddressError, ArgumentError
from delugeserve_client.transports.connection import Compression, Options, SharedMemory
from delugeserve_client.transports.shared_memory import can_share_memory

Decode: TypeAlias = Literal["auto", "client", "server"]

_HEADER = re.compile(r"[0-9A-Za-z_.-]+")  # what gRPC takes; HTTP takes a few more


@dataclass(frozen=True)
class Configuration:
    """How a classifier works.

    Attributes:
        addresses: the servers.
        options: how connections are made.
        settings: how requests are sent.
        decode: where encoded images are decoded.
        max_pixels: largest image, in pixels; None for Pillow's limit.
    """

    addresses: tuple[Address, ...]
    options: Options
    settings: Settings
    decode: Decode
    max_pixels: int | None


def configure(
    url: str | Sequence[str],
    *,
    protocol: str | None,
    timeout: float,
    credentials: Credentials | None,
    decode: Decode,
    retry: RetryPolicy,
    hedge: float | None,
    in_flight: int | None,
    shared_memory: SharedMemory,
    max_pixels: int | None,
    headers: Mapping[str, str] | None,
    compression: Compression | None,
) -> Configuration:
    """Check the arguments of :class:`~delugeserve_client.Classifier`.

    Raises:
        AddressError: an address is not of a known form, or there is none.
        ArgumentError: another argument is out of range.
        AuthenticationFailed: the environment's API key cannot be sent.
    """
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise AddressError("There is no address of a server.", "Use one such as localhost:8001.")
    timeout = check_seconds("timeout", timeout, infinite=True)
    hedge = None if hedge is None else check_seconds("hedge", hedge)
    _check_choice("decode", decode, ("auto", "client", "server"))
    _check_choice("shared_memory", shared_memory, ("auto", "off", "system", "cuda"))
    _check_choice("compression", compression, (None, "gzip"))
    in_flight = _check_count("in_flight", in_flight)
    max_pixels = _check_count("max_pixels", max_pixels)
    _check_headers(headers or {})
    shown = Credentials.from_environment() if credentials is None else credentials
    addresses = tuple(dict.fromkeys(parse_address(one, protocol) for one in urls))
    if shared_memory in ("system", "cuda") and not any(map(can_share_memory, addresses)):
        raise ArgumentError(
            f"shared_memory is {shared_memory!r}, which a server takes over gRPC on this machine "
            "only.",
            "Use 'auto', or the server's gRPC address on localhost.",
            argument="shared_memory",
            value=repr(shared_memory),
        )
    return Configuration(
        addresses,
        Options(shown, dict(headers or {}), compression, shared_memory),
        Settings(timeout, retry, hedge, in_flight),
        decode,
        max_pixels,
    )


def check_seconds(name: str, value: Any, *, infinite: bool = False) -> float:
    """Check a time limit, and return it as an ordinary number.

    Args:
        name: the argument's name.
        value: its value.
        infinite: whether there may be no limit.

    Raises:
        ArgumentError: it is not a number above 0.
    """
    number = math.nan
    if not isinstance(value, (bool, str)):
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            number = float(value)
    if not number > 0 or (math.isinf(number) and not infinite):
        raise ArgumentError(
            f"{name} is {value!r}.",
            "Use a number of seconds above 0"
            + (", or float('inf') for no limit." if infinite else "."),
            argument=name,
            value=repr(value),
        )
    return number


def _check_count(name: str, value: Any) -> int | None:
    if value is None:
        return None
    try:
        count = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = 0
    if count < 1:
        raise ArgumentError(
            f"{name} is {value!r}.",
            "Use a whole number from 1 up, or None.",
            argument=name,
            value=repr(value),
        )
    return count


def _check_headers(headers: Mapping[str, Any]) -> None:
    for name, value in headers.items():
        named = isinstance(name, str) and _HEADER.fullmatch(name)
        fits = isinstance(value, str) and value.isascii() and value.isprintable()
        if not named or not fits or name.lower().endswith("-bin"):
            raise ArgumentError(
                f"headers has {name!r}: {value!r}.",
                "Use names of letters, digits, '-', '_' and '.' that do not end in '-bin', and "
                "texts of printable ASCII characters.",
                argument="headers",
                value=repr({name: value}),
            )


def _check_choice(name: str, value: Any, choices: Sequence[Any]) -> None:
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ArgumentError(
            f"{name} is {value!r}.", f"Use {known}.", argument=name, value=repr(value)
        )
