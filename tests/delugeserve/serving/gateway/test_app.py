"""Requests to the application, answered by a stand-in for Triton."""

from __future__ import annotations

import asyncio
import json
import logging

import grpc
import pytest
from asgi import LABELS, call, multipart, sent_bytes, sent_pixels


def _abort(status, message):
    def handler(request, context):
        context.abort(status, message)

    return handler


def test_an_image_as_the_body_gets_its_classes(gateway, triton, encode):
    answer = gateway.post("/classify?top_k=2", encode("red"))
    assert answer.status == 200, answer.body
    assert answer.json() == {
        "model": "colour",
        "version": "1",
        "predictions": [
            {"label": "red", "index": 0, "probability": 0.7},
            {"label": "green: grass", "index": 1, "probability": 0.2},
        ],
    }
    pixels = sent_pixels(triton.requests[0])
    assert pixels.shape == (1, 8, 12, 3)
    assert (pixels == (255, 0, 0)).all()


def test_a_server_that_decodes_gets_the_image_as_it_is(gateway, triton, encode):
    triton.models = {"colour": ("3",), "colour_image": ("3",), "colour_decode": ("3",)}
    image = encode("red") + b"\0\0"
    answer = gateway.post("/classify?model=colour", image)
    assert (answer.status, answer.json()["version"]) == (200, "3")
    (request,) = triton.requests
    assert request.model_name == "colour_image"
    assert sent_bytes(request) == image
    models = gateway.get("/models").json()["models"]
    assert models == [{"name": "colour", "versions": ["3"], "decoded_by": "server"}]


def test_a_server_that_loses_its_decoder_is_asked_without_it(gateway, triton, encode, monkeypatch):
    monkeypatch.setattr("delugeserve.serving.gateway.upstream._PAUSES", (0.001,))
    triton.models = {"colour": ("3",), "colour_image": ("3",)}
    assert gateway.post("/classify", encode()).status == 200
    triton.models = {"colour": ("4",)}
    answer = gateway.post("/classify", encode())
    assert (answer.status, answer.json()["version"]) == (200, "4")


def test_a_model_with_a_companions_name_may_be_a_model_of_its_own(gateway, triton, encode):
    triton.models = {"colour": ("3",), "colour_image": ("3",)}
    triton.own = ("colour_image",)
    models = gateway.get("/models").json()["models"]
    assert [(model["name"], model["decoded_by"]) for model in models] == [
        ("colour", "gateway"), ("colour_image", "gateway")
    ]  # fmt: skip


def test_an_image_with_too_many_pixels_is_told_from_one_that_is_damaged(
    gateway, triton, encode, monkeypatch
):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 500)
    answer = gateway.post("/classify", encode())
    assert (answer.status, answer.json()["remedy"]) == (413, "Scale it down first.")
    triton.models = {"colour": ("1",), "colour_image": ("1",)}
    gateway.run(gateway.upstream.endpoints(fresh=True))
    problem = "The image has more than 1,000 pixels, the limit. Scale it down first."
    message = f"in ensemble 'colour_image', {problem}"
    triton.handler = _abort(grpc.StatusCode.INVALID_ARGUMENT, message)
    decoded = gateway.post("/classify", encode())
    assert (decoded.status, decoded.json()) == (
        413,
        {
            "error": "The image has more than 1,000 pixels, the limit.",
            "remedy": "Scale it down first.",
        },
    )


def test_parts_get_an_answer_each_and_one_that_is_not_an_image_fails_alone(gateway, encode):
    headers, body = multipart(
        ("image", "a.png", encode("red")), ("image", "b.jpg", b"no"), ("image", "c", encode("blue"))
    )
    answer = gateway.post("/classify", body, headers=headers)
    assert answer.status == 200
    first, second, third = answer.json()["results"]
    assert (first["name"], first["predictions"][0]["label"]) == ("a.png", "red")
    assert (second["name"], second["status"]) == ("b.jpg", 400)
    assert {"error", "remedy"} <= set(second)
    assert third["version"] == "1"


def test_parts_that_all_fail_are_an_error(gateway):
    headers, body = multipart(("image", "a.png", b"no"), ("image", "b.png", b"no"))
    assert gateway.post("/classify", body, headers=headers).status == 400


def test_one_part_is_answered_as_a_body_is(gateway, encode):
    headers, body = multipart(("image", "a.png", encode()))
    assert len(gateway.post("/classify", body, headers=headers).json()["predictions"]) == 3


@pytest.mark.parametrize(
    ("target", "body", "headers", "status"),
    [
        ("/classify", b"not an image", {}, 400),
        ("/classify", b"", {}, 400),
        ("/classify?model=colours", None, {}, 404),
        ("/classify", None, {"content-type": "application/json"}, 415),
        ("/classify", None, {"content-encoding": "gzip"}, 415),
        ("/classify?top_k=0", None, {}, 422),
        ("/classify?top_k=1001", None, {}, 422),
        ("/classify?top_k=²", None, {}, 422),
        ("/classify?top_k=two", None, {}, 422),
        ("/classify?timeout=nan", None, {}, 422),
        ("/classify?timeout=61", None, {}, 422),
        ("/classify?top_k=1&top_k=2", None, {}, 422),
        ("/classify?topk=1", None, {}, 422),
        ("/classify", None, {"content-type": "multipart/form-data"}, 400),
        ("/classify", None, {"content-type": "multipart/form-data; boundary="}, 400),
        ("/classify", b"--x\r\nno", {"content-type": "multipart/form-data; boundary=x"}, 422),
        ("/../etc/passwd", b"", {}, 404),
        ("/classify/", None, {}, 404),
    ],
)
def test_what_is_wrong_with_a_request_has_its_status(
    gateway, triton, encode, target, body, headers, status
):
    answer = gateway.post(target, encode() if body is None else body, headers=headers)
    assert answer.status == status, answer.body
    assert answer.headers["content-type"] == "application/json"
    problem = answer.json()
    assert problem["error"].endswith((".", "?"))
    assert problem["remedy"]
    assert triton.requests == []


def test_an_unknown_model_is_told_those_that_are_served(gateway, encode):
    assert gateway.post("/classify?model=color", encode()).json()["models"] == ["colour"]


def test_a_model_must_be_chosen_among_several(gateway, triton, encode):
    triton.models = {"one": ("1",), "two": ("1", "2")}
    answer = gateway.post("/classify", encode())
    assert (answer.status, answer.json()["models"]) == (422, ["one", "two"])


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_refused(gateway, method):
    answer = gateway.run(call(gateway.app, method, "/classify"))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    assert "error" in answer.json()


def test_a_part_that_is_not_an_image_is_refused(gateway, encode):
    for parts in ([("photo", "a.png", encode())], [("image", None, b"text")], []):
        headers, body = multipart(*parts)
        assert gateway.post("/classify", body, headers=headers).status == 422


def test_too_many_parts_are_refused(gateway, encode):
    gateway.limit(images=2)
    headers, body = multipart(*[("image", "a.png", encode())] * 3)
    assert gateway.post("/classify", body, headers=headers).status == 422


def test_the_size_of_a_body_is_limited_whether_it_is_declared_or_not(gateway, triton, encode):
    gateway.limit(request_bytes=500, image_bytes=500)
    image = encode()
    assert len(image) < 500
    assert gateway.post("/classify", image).status == 200
    assert gateway.post("/classify", headers={"content-length": "501"}).status == 413
    chunks = [b"x" * 300] * 100
    assert gateway.post("/classify", chunks=chunks).status == 413
    assert len(chunks) == 98
    headers, body = multipart(("image", "a", b"x" * 501))
    assert gateway.post("/classify", body, headers=headers).status == 413
    gateway.limit(image_bytes=len(image) - 1)
    assert gateway.post("/classify", image).status == 413


def test_a_body_that_arrives_too_slowly_is_given_up(gateway):
    gateway.limit(body_seconds=0.05)
    assert gateway.post("/classify", chunks=[b"x"] * 1000, pause=0.01).status == 408


def test_bodies_together_are_limited_and_the_count_returns_to_zero(gateway, triton, encode):
    image = encode()
    gateway.limit(requests=1, buffered_bytes=len(image))

    async def together():
        first = call(gateway.app, "POST", "/classify", chunks=[image])
        return await asyncio.gather(first, call(gateway.app, "POST", "/classify", chunks=[b"x"]))

    answers = gateway.run(together())
    assert sorted(answer.status for answer in answers) == [200, 429]
    refused = max(answers, key=lambda answer: answer.status)
    assert int(refused.headers["retry-after"]) >= 1
    assert gateway.post("/classify", image).status == 200
    assert gateway.post("/classify", image + b"x").status == 429


@pytest.mark.parametrize(
    ("status", "message", "expected", "retry"),
    [
        ("UNAVAILABLE", "[request id: <id_unknown>] Exceeds maximum queue size", 429, True),
        ("RESOURCE_EXHAUSTED", "rate limited", 429, True),
        ("UNAVAILABLE", "upstream connect error or disconnect/reset before headers", 503, True),
        ("INTERNAL", "Stub process 'm' is not healthy.", 502, False),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", 504, False),
        ("INVALID_ARGUMENT", "the image is damaged", 400, False),
    ],
)
def test_errors_of_the_server_have_their_status(
    gateway, triton, encode, status, message, expected, retry, monkeypatch
):
    monkeypatch.setattr("delugeserve.serving.gateway.upstream._PAUSES", (0.001,))
    triton.handler = _abort(grpc.StatusCode[status], message)
    answer = gateway.post("/classify", encode())
    assert (answer.status, "retry-after" in answer.headers) == (expected, retry)
    # Only a server that is away is asked again; a full queue is not made fuller.
    assert len(triton.requests) == (2 if expected in (400, 503) else 1)


def test_a_server_that_comes_back_in_time_is_not_noticed(gateway, triton, encode):
    def handler(request, context):
        if len(triton.requests) < 3:
            context.abort(grpc.StatusCode.UNAVAILABLE, "connection refused")
        return [0, 1, 0]

    triton.handler = handler
    assert gateway.post("/classify?top_k=1", encode()).status == 200


def test_a_list_of_models_that_cannot_be_read_is_no_reason_to_refuse(
    gateway, triton, encode, monkeypatch
):
    monkeypatch.setattr("delugeserve.serving.gateway.upstream._PAUSES", (0.001,))
    assert gateway.post("/classify", encode()).status == 200
    monkeypatch.setattr("delugeserve.serving.gateway.upstream._KEPT", 0)

    triton.lists_models = False
    assert gateway.get("/readyz").status == 503
    assert gateway.post("/classify", encode()).status == 200


def test_no_path_and_no_traceback_reaches_a_client(gateway, triton, encode):
    message = (
        'decode failed in /opt/models/m/1/model.py\nTraceback (most recent call last):\n  File "x"'
    )
    triton.handler = _abort(grpc.StatusCode.INVALID_ARGUMENT, message)
    answer = gateway.post("/classify", encode())
    assert answer.json()["error"] == "decode failed in (path)."


def test_a_failure_of_our_own_is_an_error_without_details(gateway, encode, monkeypatch, caplog):
    async def fail(*_):
        raise RuntimeError("/secret/path")

    monkeypatch.setattr(gateway.upstream, "classify", fail)
    answer = gateway.post("/classify", encode(), headers={"x-request-id": "id-7"})
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "id-7" in answer.json()["remedy"]
    assert "RuntimeError" in caplog.text


def test_a_client_that_leaves_cancels_the_inference(gateway, triton, encode):
    def handler(request, context):
        triton.cancelled.wait(20)
        return [1, 0, 0]

    triton.handler = handler

    async def leave():
        leaving = asyncio.Event()
        sent = asyncio.create_task(
            call(gateway.app, "POST", "/classify", chunks=[encode()], leave=leaving)
        )
        while not triton.requests and not sent.done():
            await asyncio.sleep(0.005)
        leaving.set()
        return await sent

    gateway.run(leave())
    assert triton.cancelled.wait(20)


def test_requests_leave_nothing_behind(gateway, triton, encode):
    for body in (encode(), b"not an image"):
        gateway.post("/classify", body)
    gateway.run(asyncio.sleep(0))
    left = [task.get_coro().__qualname__ for task in asyncio.all_tasks(gateway.loop)]
    assert [name for name in left if "grpc" not in name.lower() and "poll" not in name] == []


def test_the_deadline_of_a_client_reaches_the_server(gateway, triton, encode):
    gateway.post("/classify?timeout=2.5", encode())
    assert 0 < triton.requests[0].parameters["timeout"].int64_param <= 2_500_000


def test_a_slow_server_is_given_up(gateway, triton, encode):
    def handler(request, context):
        triton.cancelled.wait(20)
        return [1, 0, 0]

    triton.handler = handler
    assert gateway.post("/classify?timeout=0.1", encode()).status == 504
    triton.cancelled.set()


def test_a_new_version_with_another_input_is_read_anew(gateway, triton, encode):
    assert gateway.post("/classify", encode()).json()["version"] == "1"
    triton.models, triton.size = {"colour": ("2",)}, (4, 4)
    assert gateway.post("/classify", encode()).json()["version"] == "2"
    shapes = [sent_pixels(request).shape for request in triton.requests]
    assert shapes == [(1, 8, 12, 3), (1, 8, 12, 3), (1, 4, 4, 3)]


def test_trace_context_and_request_id_travel_with_the_request(gateway, triton, encode):
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"traceparent": parent, "tracestate": "a=b", "x-request-id": "id-1"}
    answer = gateway.post("/classify", encode(), headers=headers)
    assert answer.headers["x-request-id"] == "id-1"
    sent = triton.metadata[0]
    assert {name: sent[name] for name in headers} == headers
    assert triton.requests[0].id == "id-1"


@pytest.mark.parametrize("value", ["", "no", "00-" + "0" * 200, "\xe9"])
def test_a_damaged_trace_context_or_id_is_replaced(gateway, triton, encode, value):
    headers = {"traceparent": value, "x-request-id": value + "\x7f"}
    answer = gateway.post("/classify", encode(), headers=headers)
    assert answer.status == 200
    assert "traceparent" not in triton.metadata[0]
    assert len(answer.headers["x-request-id"]) == 36


def test_each_request_is_one_line_of_json_in_the_log(gateway, encode, caplog):
    with caplog.at_level(logging.INFO, "delugeserve.access"):
        gateway.post("/classify", encode(), headers={"x-client-id": "team-a"})
        gateway.post("/classify?key=secret", b"", headers={"authorization": "Bearer secret"})
    first, second = (
        json.loads(record.message) for record in caplog.records if record.name.endswith("access")
    )
    assert {**first, "time": 0, "seconds": 0, "request_id": 0, "bytes_sent": 0} == {
        "time": 0, "request_id": 0, "method": "POST", "path": "/classify", "status": 200,
        "seconds": 0, "bytes_sent": 0, "client": "team-a", "images": 1,
        "bytes_received": len(encode()), "model": "colour", "versions": ["1"], "failed": 0,
    }  # fmt: skip
    assert (second["status"], "secret" in json.dumps(second)) == (422, False)


def test_health_is_that_of_the_process_alone(gateway, triton):
    triton.models = {}
    assert gateway.get("/healthz").status == 200


def test_ready_means_that_every_model_answers(gateway, triton, monkeypatch):
    monkeypatch.setattr("delugeserve.serving.gateway.health._KEPT", 0)
    triton.models = {"one": ("1",), "two": ("4",), "two_image": ("4",)}
    answer = gateway.get("/readyz")
    assert (answer.status, answer.json()) == (
        200,
        {"ready": True, "models": {"one": {"version": "1"}, "two": {"version": "4"}}},
    )
    assert {request.model_name for request in triton.requests} == {"one", "two_image"}

    def handler(request, context):
        if request.model_name == "one":
            context.abort(grpc.StatusCode.INTERNAL, "Stub process is not healthy, in /secret")
        return [1, 0, 0]

    triton.handler = handler
    answer = gateway.get("/readyz")
    assert answer.status == 503
    assert "error" in answer.json()["models"]["one"]
    assert b"secret" not in answer.body


def test_a_server_without_models_is_not_ready(gateway, triton):
    triton.models = {}
    assert gateway.get("/readyz").status == 503


def test_a_server_that_is_stopping_is_not_ready(gateway, tmp_path):
    status = tmp_path / "status.json"
    gateway.set(status=str(status))
    status.write_text('{"state": "stopping"}')
    assert gateway.get("/readyz").status == 503
    gateway.set()  # forgets what was found out
    status.write_text('{"state": "serving"}')
    assert gateway.get("/readyz").status == 200


def test_readiness_asks_at_most_once_a_second(gateway, triton):
    async def together():
        return await asyncio.gather(*(call(gateway.app, "GET", "/readyz") for _ in range(20)))

    assert {answer.status for answer in gateway.run(together())} == {200}
    assert len(triton.requests) == 1


def test_every_path_and_parameter_is_in_the_description(gateway):
    description = gateway.get("/openapi.json").json()
    assert description["openapi"].startswith("3.1")
    for path, methods in description["paths"].items():
        for method in methods:
            assert gateway.run(call(gateway.app, method.upper(), path)).status not in (404, 405)
    references = json.dumps(description).split('"#/components/schemas/')[1:]
    schemas = description["components"]["schemas"]
    assert {text.partition('"')[0] for text in references} == set(schemas)
    page = gateway.get("/docs")
    assert "<script" not in page.body.decode()
    assert "http://" not in page.body.decode().replace("http://localhost", "")
    assert all(path in page.body.decode() for path in description["paths"])
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_the_classes_have_the_servers_names(gateway, encode):
    predictions = gateway.post("/classify", encode()).json()["predictions"]
    assert [item["label"] for item in predictions] == list(LABELS)
