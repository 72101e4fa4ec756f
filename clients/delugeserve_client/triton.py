"""tritonclient's modules, gRPC's channel arguments, and requests of tritonclient.

tritonclient is imported when a connection is made: its HTTP half loads gevent, which a gRPC user
does not need.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import Any, TypeAlias

import numpy as np

from delugeserve_client.address import Address
from delugeserve_client.errors import MissingPackageError
from delugeserve_client.preprocessing import Pixels
from delugeserve_client.proxies import find_proxy
from delugeserve_client.served import ServedModel

Outputs: TypeAlias = Mapping[str, int]

# These replace tritonclient's own channel arguments, so the message sizes are set here again.
_CHANNEL_ARGUMENTS: Sequence[tuple[str, int | str]] = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # The client repeats failed attempts itself: gRPC knows neither its deadline over all attempts
    # nor its other servers, and two loops of retries would multiply an overload.
    ("grpc.enable_retries", 0),
    # A server that restarted must be found by the next attempt. By default gRPC waits up to two
    # minutes between attempts to connect, in all channels to the same address.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 400),
)


def channel_arguments(address: Address) -> list[tuple[str, int | str]]:
    """Return the gRPC channel arguments of a connection.

    Args:
        address: the server's address. Loopback addresses are never reached through a proxy.
    """
    use_proxy = find_proxy(address.host) is not None
    return [*_CHANNEL_ARGUMENTS, ("grpc.enable_http_proxy", int(use_proxy))]


def import_triton(name: str) -> Any:
    """Import a module of tritonclient.

    Args:
        name: the module's name, such as ``grpc``.

    Raises:
        MissingPackageError: tritonclient or one of its own dependencies is not installed.
    """
    try:
        return importlib.import_module(f"tritonclient.{name}")
    except (ModuleNotFoundError, RuntimeError) as error:
        # tritonclient raises RuntimeError where one of its own dependencies is missing.
        missing = error.__cause__ if isinstance(error, RuntimeError) else error
        if not isinstance(missing, ModuleNotFoundError):
            raise
        raise MissingPackageError(
            f"This needs '{missing.name}', which is not installed.",
            "Install it with: pip install 'tritonclient[grpc,http]'",
            module=missing.name or "tritonclient",
        ) from error


def build_request(
    module: Any,
    model: ServedModel,
    batch: Pixels,
    outputs: Outputs,
    timeout: float | None = None,
) -> dict[str, Any]:
    """Build the arguments of tritonclient's ``infer`` methods.

    Args:
        module: ``tritonclient.grpc`` or ``tritonclient.http``.
        model: the model to ask.
        batch: uint8 ``[N, H, W, 3]``.
        outputs: names of the outputs wanted. A number above 0 asks for that many classes as
            strings (Triton's classification extension), 0 for the values.
        timeout: seconds after which nobody waits for the answer, so that the server may drop the
            request from its queue; None for no limit.
    """
    tensor = module.InferInput(model.input_name, list(batch.shape), "UINT8")
    tensor.set_data_from_numpy(np.ascontiguousarray(batch))
    return {
        "model_name": model.name,
        "model_version": model.version,
        "inputs": [tensor],
        "outputs": [
            module.InferRequestedOutput(name, class_count=classes)
            for name, classes in outputs.items()
        ],
        # In microseconds. 0, Triton's default, is no limit.
        "timeout": int(timeout * 1e6) if timeout is not None and isfinite(timeout) else None,
    }
