"""Finding the model on one or more servers: which questions are asked, and what follows.

Questions are yielded and answers sent in, so that both classifiers share this without I/O.
"""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Generator, Sequence
from typing import Any, TypeAlias

from delugeserve_client.address import Address
from delugeserve_client.configuration import Configuration
from delugeserve_client.core.failures import Kind
from delugeserve_client.diagnosis import choose_model, diagnose, not_served, not_triton
from delugeserve_client.errors import ClientError, ServerUnavailable, UnsuitableModel
from delugeserve_client.explaining import to_error
from delugeserve_client.served import ImageModel, ServedModel, read_image_model, read_model
from delugeserve_client.transports.connection import CallFailed

Question: TypeAlias = tuple[str, ...]

_SECONDS_OF_ONE = 5.0
_ATTEMPTS = 4

_log = logging.getLogger(__name__)


def find_model(
    address: Address, name: str | None, version: str
) -> Generator[Question, Any, ServedModel]:
    """Yield the questions that a model's description needs, and return it.

    Args:
        address: the server's address.
        name: the model's name; None takes the server's only model.
        version: the version to ask; empty leaves the choice to the server.

    Raises:
        CallFailed: the server does not answer.
        ServerUnavailable: it is not a Triton Inference Server.
        ModelUnavailable: the model is not served or does not classify raw RGB images, or no name
            is given and the server does not serve exactly one model.
    """
    if name is None:
        index = yield from _ask(address, ("index",))
        name = choose_model(address, index.get("models", []))
    try:
        metadata = yield from _ask(address, ("metadata", name, version))
        config = yield from _ask(address, ("config", name, version))
    except CallFailed as error:
        # Triton says that a model is not ready in the words of a server that is not.
        unready = error.failure.kind is Kind.DRAINING and "model" in str(error).lower()
        if error.failure.kind not in (Kind.MISSING, Kind.REFUSED) and not unready:
            raise
        index = yield from _ask(address, ("index",))
        raise not_served(address, name, version, index.get("models", [])) from None
    model = read_model(metadata, config.get("config", config), version)
    _log.debug("%s serves %s", address, model)
    return model


def find_image_model(model: ServedModel) -> Generator[Question, Any, ImageModel | None]:
    """Yield the questions about the model that takes encoded images; return it, or None.

    Args:
        model: the model that takes pixels.

    Raises:
        CallFailed: the server does not answer.
    """
    name = f"{model.name}_image"
    try:
        metadata = yield ("metadata", name, model.version)
        config = yield ("config", name, model.version)
    except CallFailed as error:
        if error.failure.kind in (Kind.MISSING, Kind.REFUSED, Kind.DRAINING):
            return None
        raise
    return read_image_model(metadata, config.get("config", config), model)


def join(addresses: Sequence[Address], models: Sequence[ServedModel | None]) -> ServedModel:
    """Return the one model that several servers serve.

    Args:
        addresses: the servers.
        models: what each serves; None for one that does not answer now. At least one does.

    Raises:
        UnsuitableModel: they serve models that differ in what they take or return.
    """
    found = [
        (address, model)
        for address, model in zip(addresses, models, strict=True)
        if model is not None
    ]
    first_address, first = found[0]
    for address, model in found[1:]:
        if (model.preprocessing, dict(model.outputs), model.input_name) != (
            first.preprocessing,
            dict(first.outputs),
            first.input_name,
        ):
            raise UnsuitableModel(
                f"'{first.name}' takes or returns something else at {address} than at "
                f"{first_address}.",
                "Serve the same model at all addresses.",
                url=str(address),
                model=first.name,
            )
        if model.digest != first.digest:
            _log.warning(
                "%s and %s serve different versions of '%s'", first_address, address, first.name
            )
    return dataclasses.replace(
        first,
        max_batch_size=min(model.max_batch_size for _, model in found),
        digest=first.digest if len({model.digest for _, model in found}) == 1 else None,
    )


def seconds_to_connect(configuration: Configuration) -> float:
    """Return seconds that one server has for a question about its models."""
    timeout = configuration.settings.timeout
    # One that hangs must not keep the others from being asked.
    return min(timeout, _SECONDS_OF_ONE) if len(configuration.addresses) > 1 else timeout


def next_pause(
    failures: Sequence[CallFailed],
    configuration: Configuration,
    attempt: int,
    chance: random.Random,
) -> float | None:
    """Return seconds to wait before all servers are asked again; None to give up.

    Args:
        failures: what they answered.
        configuration: how the classifier works.
        attempt: number of attempts so far.
        chance: the source of jitter.
    """
    retry = configuration.settings.retry
    if attempt >= min(retry.attempts or _ATTEMPTS, _ATTEMPTS):
        return None
    if not any(retry.allows(error.failure, attempt) for error in failures):
        return None
    return retry.pause(attempt, chance)


def connection_error(
    error: CallFailed, address: Address, configuration: Configuration
) -> ClientError:
    """Return the error for a server that does not answer; this may ask its port what it speaks."""
    timeout = seconds_to_connect(configuration)
    found = to_error(error.failure, address, timeout)
    if isinstance(found, ServerUnavailable):
        return diagnose(address, found, configuration.options.credentials, timeout)
    return found


def _ask(address: Address, question: Question) -> Generator[Question, Any, Any]:
    try:
        answer = yield question
    except CallFailed as error:
        if error.failure.kind is Kind.REFUSED and isinstance(error.failure.cause, ValueError):
            raise not_triton(address) from error
        raise
    if not isinstance(answer, dict):
        raise not_triton(address)
    return answer
