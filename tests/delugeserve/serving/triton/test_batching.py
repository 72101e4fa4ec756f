"""The Python-based backends, with a fake of Triton's Python module."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from delugeserve.networks.build import build_network
from delugeserve.networks.inference import fold
from delugeserve.runtimes import BACKENDS
from delugeserve.zoo import CIFAR10, Architecture, ModelSpec
from delugeserve_export.graph import build_graph


def request(array, *outputs):
    return SimpleNamespace(image=array, requested_output_names=lambda: outputs or ("logits",))


@pytest.fixture
def make(load_backend, tmp_path: Path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.bin").touch()

    class Doubler(load_backend("onnxruntime").BatchedModel):
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


def test_a_failure_is_logged_in_full_and_reported_without_paths(make, pb_utils):
    responses = make().execute([request(np.full((1, 2), 100, np.uint8))] * 2)
    assert {response.error.message for response in responses} == {"the model failed on this input"}
    assert "/secret/place" in pb_utils.logged[0]


def test_the_cores_are_shared_among_several_instances(make, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(7), raising=False)
    assert make().threads is None
    assert make(instances=3).threads == 2
    assert make(instances=30).threads == 1
    monkeypatch.setenv("DELUGESERVE_SERVERS", "3")  # answer side by side
    assert make().threads == 2
    assert make(instances=3).threads == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"filename": "absent.bin"}, "absent.bin"),
        ({"input": []}, "one input, not 0"),
        ({"input": [{"name": "photo", "dims": [2]}]}, r"'photo'.*\['image'\]"),
        ({"output": [{"name": "logits", "dims": [5]}]}, r"'logits'.*\[5\].*\[2\]"),
        ({"max_batch_size": 0}, r"'image'.*\[2\].*\[-1, 2\]"),
        ({"failure": RuntimeError("at x.cpp:3\nno such operator\n")}, "^model.bin: no such oper"),
        ({"failure": ValueError()}, "^model.bin: ValueError"),
    ],
)
def test_an_error_of_loading_names_the_cause(make, pb_utils, changes, named):
    with pytest.raises(pb_utils.TritonModelException, match=named):
        make(**changes)


@pytest.fixture(scope="module")
def artefacts(tmp_path_factory):
    """A small network for each backend of a CPU."""
    spec = ModelSpec("tiny", Architecture("tiny", "cifar", (4, 6), (1, 1)), CIFAR10)
    graph = build_graph(fold(build_network(spec).eval()), CIFAR10)
    folder = tmp_path_factory.mktemp("artefacts")
    return {name: BACKENDS[name].build(graph, folder) for name in ("onnxruntime", "openvino")}


@pytest.fixture
def load(load_backend, artefacts):
    """Load a real artefact with one of our backends, on a machine with some cores."""

    def load(name, threads=None, **parameters):
        backend = load_backend(name)
        model = backend.TritonPythonModel()
        inputs, outputs = model.load(artefacts[name], parameters, threads)
        assert inputs == {"image": [-1, 32, 32, 3]}
        assert outputs == {"logits": [-1, 10], "probabilities": [-1, 10]}
        return model

    return load


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_real_artefact(load, artefacts, backend):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    found = load(backend).run(images, ["logits"])
    expected, _ = BACKENDS[backend].load(artefacts[backend], "fp32")(images)
    assert list(found) == ["logits"]
    np.testing.assert_array_equal(found["logits"], expected)


@pytest.mark.parametrize(
    ("backend", "key", "value"),
    [
        ("onnxruntime", "execution_mode", "2"),
        ("onnxruntime", "intra_op_thread_count", "-1"),
        ("openvino", "HINT_BF16", "NO"),
        ("openvino", "INFERENCE_NUM_THREADS", "many"),
        ("openvino", "ENABLE_CPU_PINNING", "MAYBE"),
    ],
)
def test_a_bad_parameter_is_named(load, pb_utils, backend, key, value):
    with pytest.raises(pb_utils.TritonModelException, match=f"{key} must be .*{value}"):
        load(backend, **{key: value})


@pytest.mark.parametrize("mode", ["0", "1", ""])
def test_execution_modes(load, mode):
    options = load("onnxruntime", execution_mode=mode)._session.get_session_options()
    assert options.execution_mode.value == int(mode or 0)


def compiled(model):
    """The compiled models of our OpenVINO backend: for single images, and for parts of batches."""
    engine = model._engine
    requests = (engine._alone, *engine._sized.values())
    return list(dict.fromkeys(one._compiled for one in requests))


@pytest.mark.parametrize(
    ("threads", "parameters", "parts"),
    [
        (None, {}, 4),
        (2, {}, 2),  # an instance of two
        (1, {}, 1),
        (None, {"INFERENCE_NUM_THREADS": "3"}, 3),
        (None, {"NUM_STREAMS": "2"}, 2),
        (None, {"NUM_STREAMS": "1"}, 1),
        (None, {"NUM_STREAMS": "auto"}, 4),
        (2, {"NUM_STREAMS": "9"}, 2),
    ],
)
def test_openvino_splits_a_batch_among_its_threads(load, monkeypatch, threads, parameters, parts):
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: range(4))
    model = load("openvino", threads, **parameters)
    assert model._engine.parts == parts
    assert len(compiled(model)) == (3 if parts > 1 else 2)


@pytest.mark.parametrize(("parameter", "pinned"), [(None, False), ("yes", True), ("NO", False)])
def test_openvino_pins_threads_only_if_told_to(load, parameter, pinned):
    parameters = {"ENABLE_CPU_PINNING": parameter} if parameter else {}
    for one in compiled(load("openvino", 2, **parameters)):
        assert one.get_property("ENABLE_CPU_PINNING") is pinned


def test_openvino_takes_the_settings(load):
    for one in compiled(load("openvino", 2, HINT_BF16="YES")):
        assert one.get_property("INFERENCE_NUM_THREADS") == 2
        assert one.get_property("INFERENCE_PRECISION_HINT").to_string() == "bf16"
