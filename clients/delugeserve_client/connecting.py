"""Asking servers for the model: the questions of :mod:`~delugeserve_client.discovery`, put."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import itertools
import math
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, TypeVar

from delugeserve_client.address import Address
from delugeserve_client.configuration import Configuration
from delugeserve_client.core.failures import Failure, Kind
from delugeserve_client.discovery import (
    Question,
    connection_error,
    find_image_model,
    find_model,
    join,
    next_pause,
    seconds_to_connect,
)
from delugeserve_client.errors import ClientError
from delugeserve_client.served import ImageModel, ServedModel
from delugeserve_client.transports.connection import CallFailed, Connection
from delugeserve_client.transports.loops import AioGrpcConnection, AioHttpConnection

_Found = TypeVar("_Found")

_GRACE = 1.0
"""Seconds that other servers have once one has answered."""
_SECONDS_OF_FAILURE = 5.0


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
        found = _ask_all(connections, lambda address: find_model(address, name, version), timeout)
        for connection, one in zip(connections, found, strict=True):
            answers.add(connection.address, one)
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
        found = await _ask_all_async(
            connections, lambda address: find_model(address, name, version), timeout
        )
        for connection, one in zip(connections, found, strict=True):
            answers.add(connection.address, one)
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


class Decoder:
    """What is known of the model that takes encoded images.

    Attributes:
        model: the model; None if there is none, or it is not known yet.
    """

    def __init__(self) -> None:
        self.model: ImageModel | None = None
        self._again = -math.inf

    @property
    def is_unknown(self) -> bool:
        """Whether to ask for it. After a failure that is so some seconds later."""
        return time.monotonic() >= self._again

    def found(self, model: ImageModel | None) -> None:
        """Remember what the servers said."""
        self.model, self._again = model, math.inf

    def failed(self) -> None:
        """Remember that they did not answer."""
        self._again = time.monotonic() + _SECONDS_OF_FAILURE


def find_decoder(
    connections: Sequence[Connection], configuration: Configuration, model: ServedModel
) -> ImageModel | None:
    """Return the model that takes encoded images; None unless all servers that answer have it.

    Raises:
        ClientError: no server answers.
    """
    timeout = seconds_to_connect(configuration)
    found = _ask_all(connections, lambda _: find_image_model(model), timeout)
    return _join_decoders(connections, configuration, found)


async def find_decoder_async(
    connections: Sequence[AioGrpcConnection | AioHttpConnection],
    configuration: Configuration,
    model: ServedModel,
) -> ImageModel | None:
    """Return the model that takes encoded images; see :func:`find_decoder`."""
    timeout = seconds_to_connect(configuration)
    found = await _ask_all_async(connections, lambda _: find_image_model(model), timeout)
    return await asyncio.to_thread(_join_decoders, connections, configuration, found)


def _join_decoders(
    connections: Sequence[Connection | AioGrpcConnection | AioHttpConnection],
    configuration: Configuration,
    found: Sequence[ImageModel | CallFailed | ClientError | None],
) -> ImageModel | None:
    models = [one for one in found if not isinstance(one, Exception)]
    for one, connection in zip(found, connections, strict=True):
        if models:
            break
        if isinstance(one, CallFailed):
            raise connection_error(one, connection.address, configuration) from None
        if isinstance(one, ClientError):
            raise one
    known = [one for one in models if one is not None]
    if len(known) < len(models):
        return None
    return dataclasses.replace(known[0], max_batch_size=min(one.max_batch_size for one in known))


def _ask_all(
    connections: Sequence[Connection],
    questions: Callable[[Address], Generator[Question, Any, _Found]],
    timeout: float,
) -> list[_Found | CallFailed | ClientError]:
    """Ask all servers at once; return what each answered, in their order.

    Once one has answered, the others have a little longer: one that hangs costs no more.
    """

    def ask(connection: Connection) -> _Found | CallFailed | ClientError:
        try:
            return answer(
                questions(connection.address), functools.partial(_ask, connection, timeout)
            )
        except (CallFailed, ClientError) as error:
            return error

    if len(connections) == 1:
        return [ask(connections[0])]
    answers: queue.SimpleQueue[tuple[int, _Found | CallFailed | ClientError]] = queue.SimpleQueue()

    def work(number: int) -> None:
        try:
            answers.put((number, ask(connections[number])))
        except Exception as error:
            answers.put((number, CallFailed(Failure(Kind.BROKEN, str(error), cause=error))))

    for number in range(len(connections)):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    found: list[_Found | CallFailed | ClientError] = [_no_answer()] * len(connections)
    until = None
    for _ in connections:
        try:
            number, one = answers.get(timeout=until and max(0.0, until - time.monotonic()))
        except queue.Empty:
            break
        found[number] = one
        if until is None and not isinstance(one, Exception):
            until = time.monotonic() + _GRACE
    return found


async def _ask_all_async(
    connections: Sequence[AioGrpcConnection | AioHttpConnection],
    questions: Callable[[Address], Generator[Question, Any, _Found]],
    timeout: float,
) -> list[_Found | CallFailed | ClientError]:
    """Ask all servers at once; see :func:`_ask_all`."""

    async def ask(
        connection: AioGrpcConnection | AioHttpConnection,
    ) -> _Found | CallFailed | ClientError:
        try:
            return await answer_async(
                questions(connection.address), functools.partial(_ask, connection, timeout)
            )
        except (CallFailed, ClientError) as error:
            return error

    tasks = [asyncio.ensure_future(ask(connection)) for connection in connections]
    try:
        waiting, answered = set(tasks), False
        while waiting and not answered:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            answered = any(not isinstance(task.result(), Exception) for task in done)
        if waiting:
            await asyncio.wait(waiting, timeout=_GRACE)
        return [task.result() if task.done() else _no_answer() for task in tasks]
    finally:
        for task in tasks:
            task.cancel()


def _no_answer() -> CallFailed:
    return CallFailed(Failure(Kind.TIMEOUT, "The server did not answer in time."))


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
