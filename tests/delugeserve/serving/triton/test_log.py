"""A server's log: the last lines, and why the server did not start."""

from __future__ import annotations

import pytest

from delugeserve.serving.triton import log

FAILED = """\
W1124 03:24:02.966106 4990 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory"
E1124 03:24:02.966279 4990 server.cc:241] "CudaDriverHelper has not been initialized."
I1124 03:24:02.967513 4990 model_lifecycle.cc:472] "loading: good:1"
I1124 03:24:04.361335 4990 server.cc:604]
+------------------+------+
| Repository Agent | Path |
+------------------+------+
+------------------+------+

I1124 03:24:04.361450 4990 server.cc:674]
+-------+---------+------------------------------------------------------------------+
| Model | Version | Status                                                           |
+-------+---------+------------------------------------------------------------------+
| good  | 1       | READY                                                            |
| bad   | 1       | UNAVAILABLE: Internal: TritonModelException: model.onnx: no good |
|       |         |                                                                  |
|       |         | At:                                                              |
|       |         |   /private/backends/onnxruntime/batching.py(79): initialize      |
| none  | -       | Not loaded: No model version was found                           |
+-------+---------+------------------------------------------------------------------+

error: creating server: Internal - failed to load all models
""".splitlines()


def test_models_that_failed_and_why():
    assert log.failed_models(FAILED) == {
        "bad": "model.onnx: no good.",
        "none": "No model version was found.",
    }


def test_a_model_that_is_rejected_before_it_is_loaded():
    line = (
        'E1124 03:25:53.532955 5349 model_repository_manager.cc:1460] "Poll failed for model '
        "directory 'odd': Invalid model name: Could not determine backend\""
    )
    assert log.failed_models([line]) == {"odd": "Invalid model name: Could not determine backend."}


def test_errors_that_are_not_about_a_model():
    assert log.failed_models(["nothing of the kind"]) == {}
    assert log.startup_error(FAILED) == "failed to load all models."
    assert log.startup_error(FAILED[:4]) == ""


def test_the_tail_is_without_tables_and_absent_gpus():
    assert log.tail(FAILED, 2).splitlines() == [FAILED[9], FAILED[-1]]
    assert "Cuda" not in log.tail(FAILED, 100)


@pytest.mark.parametrize(
    ("message", "tidied"),
    [
        ("UNAVAILABLE: Invalid argument: no such thing", "no such thing."),
        ("Internal - failed", "failed."),
        ("with a full stop.", "with a full stop."),
        ("two\n  lines", "two lines."),
        ("", ""),
        ("sample 'a': too large; too large; too large; ", "sample 'a': too large; too large."),
        ("too large; too large; small", "too large; small."),
    ],
)
def test_tidying(message, tidied):
    assert log.tidy(message) == tidied
