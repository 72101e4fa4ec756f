"""The description of the endpoints: OpenAPI for programs, one HTML page for people."""

from __future__ import annotations

import html
from typing import Any

from delugeserve import _version
from delugeserve.serving.gateway.body import PART
from delugeserve.serving.gateway.parameters import MOST, TOP_K
from delugeserve.serving.gateway.settings import GatewayLimits

#: The page runs no script, loads nothing, and sends its form to this server alone.
CSP = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"

STATUSES = {
    400: "An image cannot be read, or the body is damaged.",
    404: "There is no such model; `models` lists those that there are.",
    408: "The body did not arrive in time.",
    413: "The body or an image is too large.",
    415: "The body is not of a type that holds images, or it is compressed.",
    422: "A parameter or a part is missing, unknown or invalid.",
    429: "Too many requests: wait as long as Retry-After says.",
    500: "The gateway failed.",
    502: "The model failed.",
    503: "The server is starting, restarting or stopping: wait as long as Retry-After says.",
    504: "The model did not answer in time.",
}


def openapi(limits: GatewayLimits) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description of the endpoints."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "delugeserve",
            "summary": "Image classification over HTTP.",
            "version": _version.__version__,
        },
        "paths": {
            "/classify": {"post": _classify(limits)},
            "/models": {
                "get": {
                    "operationId": "models",
                    "summary": "List the models.",
                    "responses": {"200": _json("The models.", "Models"), **_errors(503, 504)},
                }
            },
            "/healthz": {
                "get": {
                    "operationId": "healthz",
                    "summary": "Tell that this process answers.",
                    "responses": {"200": {"description": "It answers."}},
                }
            },
            "/readyz": {
                "get": {
                    "operationId": "readyz",
                    "summary": "Run an inference of every model; at most one a second.",
                    "responses": {
                        "200": _json("Every model answered.", "Health"),
                        "503": _json("A model did not answer.", "Health"),
                    },
                }
            },
        },
        "components": {"schemas": _SCHEMAS},
    }


def docs(limits: GatewayLimits) -> str:
    """Return the HTML page."""
    description = openapi(limits)
    rows = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            rows.append(
                f"<tr><td><code>{method.upper()} {path}</code></td>"
                f"<td>{html.escape(operation['summary'])}</td></tr>"
            )
    parameters = [
        f"<tr><td><code>{item['name']}</code></td><td>{html.escape(item['description'])}</td></tr>"
        for item in description["paths"]["/classify"]["post"]["parameters"]
    ]
    statuses = [
        f"<tr><td>{status}</td><td>{html.escape(text.replace('`', ''))}</td></tr>"
        for status, text in STATUSES.items()
    ]
    return _PAGE.format(
        part=PART,
        paths="\n".join(rows),
        parameters="\n".join(parameters),
        statuses="\n".join(statuses),
    )


def _classify(limits: GatewayLimits) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "contentMediaType": "application/octet-stream"}}
    parts = {"type": "array", "items": {"type": "string", "contentMediaType": "image/*"}}
    return {
        "operationId": "classify",
        "summary": "Classify one image, or several.",
        "parameters": [
            _parameter(
                "model", {"type": "string"}, "Name of the model; not needed if there is one."
            ),
            _parameter(
                "top_k",
                {"type": "integer", "minimum": 1, "maximum": MOST, "default": TOP_K},
                f"Number of classes for each image, {TOP_K} by default.",
            ),
            _parameter(
                "timeout",
                {"type": "number", "exclusiveMinimum": 0, "maximum": limits.seconds},
                f"Seconds that the model has, at most {limits.seconds:g}.",
            ),
        ],
        "requestBody": {
            "required": True,
            "description": f"The bytes of an image file, up to {limits.image_bytes:,}; or up to "
            f"{limits.images} files as parts named '{PART}', together up to "
            f"{limits.request_bytes:,} bytes.",
            "content": {
                "image/*": binary,
                "application/octet-stream": binary,
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {PART: parts},
                        "required": [PART],
                    }
                },
            },
        },
        "responses": {
            "200": {
                "description": "The classes of the image; a list of results for several.",
                "content": {
                    "application/json": {
                        "schema": {"anyOf": [_reference("Classification"), _reference("Results")]}
                    }
                },
            },
            **_errors(*STATUSES),
        },
    }


def _parameter(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {
        "name": name, "in": "query", "required": False, "schema": schema, "description": description
    }  # fmt: skip


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: str) -> dict[str, Any]:
    return {
        "description": description,
        "content": {"application/json": {"schema": _reference(schema)}},
    }


def _errors(*statuses: int) -> dict[str, Any]:
    return {str(status): _json(STATUSES[status], "Error") for status in statuses}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties}


_TEXT, _NUMBER, _WHOLE = {"type": "string"}, {"type": "number"}, {"type": "integer"}
_PREDICTION = _object(
    ["label", "index", "probability"], label=_TEXT, index=_WHOLE, probability=_NUMBER
)
_PREDICTIONS = {"type": "array", "items": _reference("Prediction")}
_SCHEMAS = {
    "Prediction": _PREDICTION,
    "Classification": _object(
        ["model", "version", "predictions"], model=_TEXT, version=_TEXT, predictions=_PREDICTIONS
    ),
    "Results": _object(
        ["model", "results"],
        model=_TEXT,
        results={
            "type": "array",
            "description": "One for each part, in order: predictions, or an error.",
            "items": _object(
                ["name"],
                name=_TEXT,
                version=_TEXT,
                predictions=_PREDICTIONS,
                status=_WHOLE,
                error=_TEXT,
                remedy=_TEXT,
            ),
        },
    ),
    "Models": _object(
        ["models"],
        models={
            "type": "array",
            "items": _object(
                ["name", "versions", "decoded_by"],
                name=_TEXT,
                versions={"type": "array", "items": _TEXT},
                decoded_by={"enum": ["server", "gateway"]},
            ),
        },
    ),
    "Health": _object(
        ["ready", "models"],
        ready={"type": "boolean"},
        models={"type": "object", "additionalProperties": _object([], version=_TEXT, error=_TEXT)},
        error=_TEXT,
    ),
    "Error": _object(
        ["error", "remedy"],
        error=_TEXT,
        remedy=_TEXT,
        models={"type": "array", "items": _TEXT},
    ),
}

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>delugeserve</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto }}
table {{ border-collapse: collapse; width: 100% }}
td {{ border-top: 1px solid #8888; padding: .3rem .8rem .3rem 0; vertical-align: top }}
pre {{ background: #8882; padding: .8rem; overflow-x: auto }}
:root {{ color-scheme: light dark }}
</style>
<h1>Image classification</h1>
<form action="classify" method="post" enctype="multipart/form-data">
<input type="file" name="{part}" accept="image/*" multiple required>
<button>Classify</button>
</form>
<h2>With curl</h2>
<pre>curl --data-binary @cat.jpg 'http://localhost:8000/classify?top_k=3'
curl -F {part}=@cat.jpg -F {part}=@ship.png http://localhost:8000/classify</pre>
<h2>Paths</h2>
<table>
{paths}
</table>
<p>For programs: <a href="openapi.json">openapi.json</a>.</p>
<h2>Parameters of /classify</h2>
<table>
{parameters}
</table>
<h2>Errors</h2>
<p>An error is a JSON object: <code>error</code> tells what is wrong,
<code>remedy</code> what to do.</p>
<table>
{statuses}
</table>
</html>
"""
