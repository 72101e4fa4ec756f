import asyncio
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from fake_triton import serve_fake

from delugeserve_client import AsyncClassifier, Classifier, RequestRefused
from delugeserve_client.core.observing import Observer

PIXEL = np.ones((2, 2, 3), np.uint8)


@pytest.fixture
def spans(monkeypatch):
    """OpenTelemetry with a provider of this test's own, as if the program used it."""
    trace = pytest.importorskip("opentelemetry.trace")
    pytest.importorskip("opentelemetry.propagate")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    exporter, provider = memory.InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    found = {name: getattr(trace, name) for name in ("SpanKind", "Status", "StatusCode")}
    shim = SimpleNamespace(
        get_tracer=provider.get_tracer, set_span_in_context=trace.set_span_in_context, **found
    )
    monkeypatch.setitem(sys.modules, "opentelemetry.trace", shim)
    return exporter.get_finished_spans, provider.get_tracer("test")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_request_is_a_span_with_its_attempts(spans, protocol):
    finished, tracer = spans
    with serve_fake(protocol) as (fake, url), Classifier(url) as classifier:
        fake.failures = [("UNAVAILABLE", "No server is ready. Try again.")]
        with tracer.start_as_current_span("caller") as caller:
            classifier.classify(PIXEL)
        span, _ = finished()
        assert span.name == "infer fake"
        assert span.parent.span_id == caller.get_span_context().span_id
        assert span.attributes["delugeserve.images"] == 1
        assert [event.name for event in span.events] == ["attempt", "failed", "attempt"]
        assert span.events[1].attributes["kind"] == "draining"
        assert span.events[2].attributes == {"server.address": url, "attempt": 2}
        # The server's part of the trace hangs below the span.
        trace_id, span_id = fake.headers["traceparent"].split("-")[1:3]
        assert int(trace_id, 16) == span.get_span_context().trace_id
        assert int(span_id, 16) == span.get_span_context().span_id
        fake.failures = [("INVALID_ARGUMENT", "no")]
        with pytest.raises(RequestRefused):
            classifier.classify(PIXEL)
        assert finished()[-1].status.description == "refused"


class Counter(Observer):
    def __init__(self):
        self.seen = []

    def submitted(self, request):
        self.seen.append(("submitted", request.form.model))

    def attempt(self, request, endpoint, number):
        self.seen.append(("attempt", number))

    def failed(self, request, endpoint, failure):
        self.seen.append(("failed", failure.kind.value))

    def finished(self, request, failure):
        self.seen.append(("finished", failure))


@pytest.mark.parametrize("kind", [Classifier, AsyncClassifier])
def test_a_program_may_watch(kind, caplog):
    counter = Counter()
    with serve_fake("grpc") as (fake, url):
        fake.failures = [("UNAVAILABLE", "Exceeds maximum queue size")]
        if kind is Classifier:
            with Classifier(url, observer=counter) as classifier:
                classifier.classify(PIXEL)
        else:

            async def use():
                async with AsyncClassifier(url, observer=counter) as classifier:
                    await classifier.classify(PIXEL)

            asyncio.run(use())
    assert counter.seen == [
        ("submitted", "fake"),
        ("attempt", 1),
        ("failed", "queue full"),
        ("attempt", 2),
        ("finished", None),
    ]


def test_a_server_that_is_left_is_logged(caplog):
    with (
        caplog.at_level(logging.WARNING, "delugeserve_client"),
        serve_fake("grpc") as (_, url),
        Classifier(["127.0.0.1:1", url]) as classifier,
    ):
        for _ in range(3):
            classifier.classify(PIXEL)
    assert [record.args[:2] for record in caplog.records if "gets no requests" in record.msg] == [
        (classifier._configuration.addresses[0], "gone")
    ]


def test_the_absence_of_the_only_server_is_logged(caplog):
    """Once, however often requests are sent again meanwhile."""
    with (
        caplog.at_level(logging.WARNING, "delugeserve_client"),
        serve_fake("http") as (fake, url),
        Classifier(url) as classifier,
    ):
        fake.failures = [("UNAVAILABLE", "No server is ready. Try again.")] * 3
        classifier.classify(PIXEL)
    assert [record.getMessage().split(" is ")[1] for record in caplog.records] == [
        "draining",
        "back",
    ]
