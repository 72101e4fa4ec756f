"""The backends' shared half, with a few lines in the place of Triton's side of it."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from delugeserve import serving


class Tensor:
    def __init__(self, name, array):
        self.name, self.array = name, array

    def as_numpy(self):
        return self.array


class Response:
    def __init__(self, output_tensors=(), error=None):
        self.outputs = {tensor.name: tensor.array for tensor in output_tensors}
        self.error = error


class Error:
    INVALID_ARG = 3

    def __init__(self, message, code):
        self.message, self.code = message, code


def request(array, *outputs):
    return SimpleNamespace(image=array, requested_output_names=lambda: outputs or ("logits",))


@pytest.fixture
def log():
    return []


@pytest.fixture
def batching(monkeypatch: pytest.MonkeyPatch, log):
    triton = ModuleType("triton_python_backend_utils")
    triton.get_input_tensor_by_name = lambda asked, name: Tensor(name, getattr(asked, name))
    triton.Tensor, triton.InferenceResponse, triton.TritonError = Tensor, Response, Error
    triton.TritonModelException = type("TritonModelException", (Exception,), {})
    triton.Logger = SimpleNamespace(log_error=log.append)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    path = Path(serving.__file__).parent / "backends" / "batching.py"
    spec = importlib.util.spec_from_file_location("batching_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def make(batching, tmp_path: Path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.bin").touch()

    class Doubler(batching.BatchedModel):
        default_filename = "model.bin"
        failure: Exception | None = None
        calls: list[tuple[np.ndarray, list[str]]]

        def load(self, path, parameters, threads):
            if self.failure:
                raise self.failure
            self.calls, self.parameters, self.threads = [], parameters, threads
            return {"image": [-1, 2]}, {"logits": [-1, 2], "probabilities": [-1, 2]}

        def run(self, batch, outputs):
            self.calls.append((batch, outputs))
            if batch.max() > 99:
                raise RuntimeError("node 7 of /secret/place/model.bin")
            return {name: batch * (2 if name == "logits" else 3) for name in outputs}

    def build(failure=None, filename="", instances=1, parameters=None, **changes):
        config = {
            "max_batch_size": 8,
            "default_model_filename": filename,
            "input": [{"name": "image", "dims": [2]}],
            "output": [{"name": "logits", "dims": [2]}, {"name": "probabilities", "dims": [2]}],
            "instance_group": [{"count": instances}],
            "parameters": {
                key: {"string_value": value} for key, value in (parameters or {}).items()
            },
            **changes,
        }
        model = Doubler()
        model.failure = failure
        model.initialize(
            {
                "model_config": json.dumps(config),
                "model_name": "doubler",
                "model_repository": str(tmp_path),
                "model_version": "1",
            }
        )
        return model

    return build


def test_one_inference_answers_all_requests_in_their_order(make):
    model = make()
    rows = [np.full((count, 2), count, np.uint8) for count in (1, 3, 2)]
    responses = model.execute([request(array) for array in rows])
    assert len(model.calls) == 1
    assert model.calls[0][0].shape == (6, 2)
    for response, array in zip(responses, rows, strict=True):
        np.testing.assert_array_equal(response.outputs["logits"], array * 2)


def test_a_lone_request_is_not_copied(make):
    model, array = make(), np.ones((4, 2), np.uint8)
    model.execute([request(array)])
    assert model.calls[0][0] is array


def test_each_request_gets_the_outputs_it_asked_for(make):
    model, array = make(), np.ones((1, 2), np.uint8)
    responses = model.execute([request(array, "probabilities"), request(array)])
    assert [list(response.outputs) for response in responses] == [["probabilities"], ["logits"]]
    assert model.calls[0][1] == ["logits", "probabilities"]


@pytest.mark.parametrize("shape", [(1, 3), (2,), (1, 2, 1)])
def test_a_wrong_shape_is_refused_and_its_neighbours_are_answered(make, shape):
    model, good = make(), np.ones((1, 2), np.uint8)
    responses = model.execute([request(good), request(np.ones(shape, np.uint8)), request(good)])
    assert [response.error is None for response in responses] == [True, False, True]
    assert "'image' must have shape [2]" in responses[1].error.message
    assert model.calls[0][0].shape == (2, 2)


def test_nothing_to_run(make):
    model = make()
    assert model.execute([request(np.ones((1, 3), np.uint8))])[0].error
    assert not model.calls


def test_a_failure_is_told_to_the_operator_and_hinted_to_the_client(make, log):
    responses = make().execute([request(np.full((1, 2), 100, np.uint8))] * 2)
    assert {response.error.message for response in responses} == {"the model failed on this input"}
    assert "/secret/place" in log[0]


def test_the_cores_are_shared_among_several_instances(make, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(7), raising=False)
    assert make().threads is None
    assert make(instances=3).threads == 2
    assert make(instances=30).threads == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"filename": "absent.bin"}, "version 1 has no absent.bin"),
        ({"input": []}, "must state one input, and states 0"),
        ({"input": [{"name": "photo", "dims": [2]}]}, r"names 'photo'.*\['image'\]"),
        ({"output": [{"name": "logits", "dims": [5]}]}, r"'logits' the shape \[5\].*\[2\]"),
        ({"max_batch_size": 0}, r"'image' the shape \[2\].*\[-1, 2\]"),
        ({"failure": RuntimeError("at x.cpp:3\nno such operator\n")}, "^model.bin: no such oper"),
        ({"failure": ValueError()}, "^model.bin: ValueError"),
    ],
)
def test_what_does_not_load_says_why(make, changes, said):
    with pytest.raises(Exception, match=said) as caught:
        make(**changes)
    assert type(caught.value).__name__ == "TritonModelException"


def test_numbers_among_the_parameters(batching):
    assert batching.number({"threads": "4"}, "threads") == 4
    assert batching.number({}, "threads") is None
    with pytest.raises(Exception, match="threads must be a non-negative number, and is '-1'"):
        batching.number({"threads": "-1"}, "threads")
