"""The ASGI application: classify images, list the models, tell the health."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import AsyncIterator, Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from delugeserve.serving.gateway import pages
from delugeserve.serving.gateway.access import CLIENT_GONE, AccessLog, trace_headers
from delugeserve.serving.gateway.body import Admission, EncodedImage, read_images
from delugeserve.serving.gateway.calls import Answer, Call
from delugeserve.serving.gateway.errors import RequestError, unavailable
from delugeserve.serving.gateway.exposition import CONTENT_TYPE
from delugeserve.serving.gateway.health import Readiness
from delugeserve.serving.gateway.metrics import Metrics, collect
from delugeserve.serving.gateway.parameters import Parameters, read_parameters
from delugeserve.serving.gateway.settings import GatewaySettings
from delugeserve.serving.gateway.sources import find_sources, is_stopping
from delugeserve.serving.gateway.upstream import Endpoint, Upstream

_T = TypeVar("_T")
_ATTEMPT = "x-envoy-attempt-count"  # https://www.envoyproxy.io/docs, HTTP header manipulation


class Gateway:
    """The endpoints of the application.

    Args:
        settings: its limits.
        upstream: the server that it asks.
        metrics: counts the images.
    """

    def __init__(self, settings: GatewaySettings, upstream: Upstream, metrics: Metrics) -> None:
        self._limits = settings.limits
        self._upstream = upstream
        self._metrics = metrics
        self._admission = Admission(settings.limits)
        metrics.in_flight.set_function(lambda: self._admission.requests)
        metrics.held_bytes.set_function(lambda: self._admission.held)
        self._readiness = Readiness(upstream, lambda: is_stopping(settings))

    async def classify(self, request: Request) -> Response:
        """Classify the images of a request."""
        facts: dict[str, Any] = request.state.log
        parameters = read_parameters(request.query_params, self._limits.seconds)
        with self._admission.admit() as held:
            images = await read_images(request, self._limits, held)
            facts.update(images=len(images), bytes_received=held.size)
            work = self._classify(parameters, images, request)
            return await _unless_client_leaves(request, work)

    async def models(self, request: Request) -> Response:
        """List the models that are served."""
        endpoints = await self._upstream.endpoints()
        return JSONResponse(
            {
                "models": [
                    {
                        "name": endpoint.name,
                        "versions": list(endpoint.versions),
                        "decoded_by": "gateway"
                        if await self._upstream.decodes(endpoint)
                        else "server",
                    }
                    for endpoint in endpoints.values()
                ]
            }
        )

    async def health(self, request: Request) -> Response:
        """Tell that the process answers."""
        return JSONResponse({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """Tell whether every model answers a real inference."""
        health = await self._readiness.check()
        body: dict[str, Any] = {"ready": health.ready, "models": health.models}
        if health.problem:
            body["error"] = health.problem
        return JSONResponse(body, 200 if health.ready else 503)

    async def openapi(self, request: Request) -> Response:
        """Describe the endpoints."""
        return JSONResponse(pages.openapi(self._limits))

    async def docs(self, request: Request) -> Response:
        """Describe the endpoints, for people."""
        return HTMLResponse(
            pages.docs(self._limits), headers={"content-security-policy": pages.CSP}
        )

    async def _classify(
        self, parameters: Parameters, images: list[EncodedImage], request: Request
    ) -> Response:
        facts: dict[str, Any] = request.state.log
        name = _choose(parameters.model, await self._upstream.endpoints())
        facts["model"] = name
        request_id = request.state.request_id
        metadata = {"x-request-id": request_id, **trace_headers(request.headers)}
        # Decoding the images may have ended the gateway in the attempt before. Then the server
        # decodes them, in a process that does nothing else.
        first = request.headers.get(_ATTEMPT, "1") == "1"
        call = Call(parameters.seconds, request_id, metadata, direct=first)
        asked = [
            _or_error(self._upstream.classify(name, item.content, parameters.top_k, call))
            for item in images
        ]
        # A task for each of several; one needs none.
        answers = [await asked[0]] if len(asked) == 1 else await asyncio.gather(*asked)
        for item in answers:
            if isinstance(item, Answer):
                self._metrics.image(name, item.version, 200)
            else:
                self._metrics.image(name, "", item.status)
        versions = sorted({item.version for item in answers if isinstance(item, Answer)})
        errors = [item for item in answers if isinstance(item, RequestError)]
        facts.update(versions=versions, failed=len(errors))
        if len(answers) == 1:
            if isinstance(answers[0], RequestError):
                raise answers[0]
            return JSONResponse({"model": name, **_to_json(answers[0])})
        results = [
            {"name": image.name, **_to_json(answer)}
            for image, answer in zip(images, answers, strict=True)
        ]
        # One part that is not an image does not take the answers of the others away.
        status = max(error.status for error in errors) if len(errors) == len(answers) else 200
        return JSONResponse({"model": name, "results": results}, status)


def create_app(settings: GatewaySettings, upstream: Upstream | None = None) -> ASGIApp:
    """Return the application.

    Args:
        settings: the server's address, and the limits.
        upstream: the connection to the server; None opens one.
    """
    direct = Path(settings.direct) if settings.direct else None
    upstream = upstream or Upstream(settings.grpc, direct)
    metrics = Metrics()
    gateway = Gateway(settings, upstream, metrics)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await upstream.close()

    app = Starlette(
        routes=[
            Route("/classify", gateway.classify, methods=["POST"]),
            Route("/models", gateway.models),
            Route("/healthz", gateway.health),
            Route("/readyz", gateway.ready),
            Route("/openapi.json", gateway.openapi),
            Route("/docs", gateway.docs),
        ],
        exception_handlers={
            RequestError: _refuse,
            HTTPException: _no_such_route,
            ClientDisconnect: _client_gone,
            Exception: _failed,  # its traceback goes to the log
        },
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False  # the address would come from the request's own headers
    logged = AccessLog(app, metrics)
    if settings.metrics_port is None:
        return logged
    return ByPort(logged, settings.metrics_port, _metrics_app(settings, metrics))


class ByPort:
    """ASGI application of two, which listen on different ports.

    Clients reach the one through the proxy; nobody but the machine itself reaches the other.

    Args:
        app: the application.
        port: a port.
        other: the application for requests to this port.
    """

    def __init__(self, app: ASGIApp, port: int, other: ASGIApp) -> None:
        self._app, self._port, self._other = app, port, other

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        there = scope["type"] == "http" and scope["server"][1] == self._port
        await (self._other if there else self._app)(scope, receive, send)


def _metrics_app(settings: GatewaySettings, metrics: Metrics) -> ASGIApp:
    async def page(_request: Request) -> Response:
        sources = find_sources(settings)
        return Response(await collect(metrics, sources), headers={"content-type": CONTENT_TYPE})

    async def health(_request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route("/metrics", page), Route("/healthz", health)])


def _choose(name: str | None, endpoints: Mapping[str, Endpoint]) -> str:
    served = list(endpoints)
    if not served:
        raise unavailable()
    if name is None:
        if len(served) > 1:
            raise RequestError(
                422,
                f"The server has several models: {', '.join(served)}.",
                f"Choose one, such as /classify?model={served[0]}.",
                facts={"models": served},
            )
        return served[0]
    if name not in endpoints:
        near = difflib.get_close_matches(name, served, n=1, cutoff=0.4)
        known = f"The server has: {', '.join(served)}."
        raise RequestError(
            404,
            f"There is no model '{name[:80]}'.",
            f"Did you mean '{near[0]}'? {known}" if near else known,
            facts={"models": served},
        )
    return name


def _to_json(answer: Answer | RequestError) -> dict[str, Any]:
    if isinstance(answer, RequestError):
        return {"status": answer.status, **answer.body()}
    return {
        "version": answer.version,
        "predictions": [
            {"label": item.label, "index": item.index, "probability": item.probability}
            for item in answer.predictions
        ],
    }


async def _or_error(work: Coroutine[Any, Any, Answer]) -> Answer | RequestError:
    try:
        return await work
    except RequestError as error:
        return error


async def _unless_client_leaves(request: Request, work: Coroutine[Any, Any, _T]) -> _T:
    """Return what the work returns; cancel it when the client closes its connection.

    Raises:
        ClientDisconnect: the client has closed its connection.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(request.receive())  # the body is read: what comes is the end
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        working.cancel()
        leaving.cancel()


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    request.state.log["error"] = error.problem
    return error.response()


async def _no_such_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        problem = f"{request.method} is not allowed here."
        response = RequestError(405, problem, f"Use {allowed.replace('HEAD, ', '')}.").response()
        response.headers["allow"] = allowed
        return response
    return RequestError(
        error.status_code,
        "There is nothing at this path.",
        "Use POST /classify, or see GET /docs for all paths.",
    ).response()


async def _failed(request: Request, _error: Exception) -> Response:
    return RequestError(
        500,
        "The gateway could not process the request.",
        f"Tell whoever runs this server the request id {request.state.request_id}.",
    ).response()


async def _client_gone(_request: Request, _error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)
