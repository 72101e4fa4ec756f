"""Asking servers for the model: the questions of :mod:`~delugeserve_client.discovery`, put."""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar

from delugeserve_client.address import Address
from delugeserve_client.configuration import Configuration
from delugeserve_client.discovery import (
    Question,
    connection_error,
    find_model,
    join,
    next_pause,
    seconds_to_connect,
)
from delugeserve_client.errors import ClientError
from delugeserve_client.served import ServedModel
from delugeserve_client.transports.connection import CallFailed, Connection
from delugeserve_client.transports.loops import AioGrpcConnection, AioHttpConnection

_Found = TypeVar("_Found")


class _Round:
    """What the servers answered when all were asked once."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._models: list[ServedModel | None] = []
        self._errors: list[ClientError] = []
        self.failures: list[tuple[CallFailed, Address]] = []

    def add(self, address: Address, found: ServedModel | CallFailed | ClientError) -> None:
        """Add what one server answered."""
        self._models.append(found if isinstance(found, ServedModel) else None)
        if isinstance(found, CallFailed):
            self.failures.append((found, address))
        elif isinstance(found, ClientError):
            self._errors.append(found)

    def model(self) -> ServedModel | None:
        """Return the model; None if no server answered.

        Raises:
            ClientError: a server answered, and none has the model.
        """
        if any(self._models):
            return join(self._configuration.addresses, self._models)
        if self._errors:
            raise self._errors[0]
        return None

    def pause(self, attempt: int, chance: random.Random) -> float | None:
        """Return seconds until the next round; None to give up."""
        failures = [failure for failure, _ in self.failures]
        return next_pause(failures, self._configuration, attempt, chance)


def connect(
    connections: Sequence[Connection],
    configuration: Configuration,
    name: str | None,
    version: str,
) -> ServedModel:
    """Return the one model that servers serve.

    Args:
        connections: one for each server.
        configuration: how the classifier works.
        name: the model's name; None takes the servers' only model.
        version: the version to ask; empty leaves the choice to the servers.

    Raises:
        ClientError: no server answers, or none has the model.
    """
    timeout, chance = seconds_to_connect(configuration), random.Random()
    for attempt in itertools.count(1):
        answers = _Round(configuration)
        for connection in connections:
            found: ServedModel | CallFailed | ClientError
            try:
                found = answer(
                    find_model(connection.address, name, version),
                    functools.partial(_ask, connection, timeout),
                )
            except (CallFailed, ClientError) as error:
                found = error
            answers.add(connection.address, found)
        if (model := answers.model()) is not None:
            return model
        pause = answers.pause(attempt, chance)
        if pause is None:
            failure, address = answers.failures[0]
            raise connection_error(failure, address, configuration) from None
        time.sleep(pause)
    raise AssertionError("unreachable")


async def connect_async(
    connections: Sequence[AioGrpcConnection | AioHttpConnection],
    configuration: Configuration,
    name: str | None,
    version: str,
) -> ServedModel:
    """Return the one model that servers serve; see :func:`connect`."""
    timeout, chance = seconds_to_connect(configuration), random.Random()
    for attempt in itertools.count(1):
        answers = _Round(configuration)
        for connection in connections:
            found: ServedModel | CallFailed | ClientError
            try:
                found = await answer_async(
                    find_model(connection.address, name, version),
                    functools.partial(_ask, connection, timeout),
                )
            except (CallFailed, ClientError) as error:
                found = error
            answers.add(connection.address, found)
        if (model := answers.model()) is not None:
            return model
        pause = answers.pause(attempt, chance)
        if pause is None:
            failure, address = answers.failures[0]
            raise await asyncio.to_thread(
                connection_error, failure, address, configuration
            ) from None
        await asyncio.sleep(pause)
    raise AssertionError("unreachable")


def _ask(connection: Any, timeout: float, question: Question) -> Any:
    return connection.ask(*question, timeout=timeout)


def answer(questions: Generator[Question, Any, _Found], ask: Callable[[Question], Any]) -> _Found:
    """Answer questions about a server's models; return what they lead to.

    Args:
        questions: the questions.
        ask: puts one to the server.
    """
    try:
        question = next(questions)
        while True:
            try:
                found = ask(question)
            except CallFailed as error:
                question = questions.throw(error)
            else:
                question = questions.send(found)
    except StopIteration as end:
        result: _Found = end.value
        return result


async def answer_async(
    questions: Generator[Question, Any, _Found], ask: Callable[[Question], Awaitable[Any]]
) -> _Found:
    """Answer questions about a server's models; see :func:`answer`."""
    try:
        question = next(questions)
        while True:
            try:
                found = await ask(question)
            except CallFailed as error:
                question = questions.throw(error)
            else:
                question = questions.send(found)
    except StopIteration as end:
        result: _Found = end.value
        return result
