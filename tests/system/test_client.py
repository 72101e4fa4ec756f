"""The client, its commands and its examples against a real server with a network of a few numbers.

The network tells an image's colour by its mean: red, green or blue.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from delugeserve.serving.supervisor import serve
from delugeserve_client import AsyncClassifier, Classifier
from delugeserve_client.benchmark import measure
from delugeserve_client.errors import (
    AddressError,
    BatchError,
    ClientError,
    ImageError,
    InferenceFailed,
    ModelUnavailable,
    OutputError,
    ServerUnavailable,
    UnsuitableModel,
    WrongProtocol,
)

pytest.importorskip("onnx", reason="the test network needs the extra 'export'")
pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
if shutil.which("tritonserver") is None:
    pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

pytestmark = pytest.mark.system

EXAMPLES = Path(__file__).parents[2] / "clients" / "examples"
LABELS = ["red", "green: grass", "blue"]
MAX_BATCH = 4
CONFIG = """
backend: "onnxruntime"
max_batch_size: 4
input {{ name: "image" data_type: {dtype} dims: [8, 12, 3] }}
output {{ name: "logits" data_type: TYPE_FP32 dims: [3] }}
output {{ name: "probabilities" data_type: TYPE_FP32 dims: [3] {labels} }}
dynamic_batching {{ {queue} }}
instance_group {{ count: 1 }}
parameters {{ key: "resize_size" value {{ string_value: "10" }} }}
"""


def write_model(folder: Path, dtype: str, labels: str, queue: str = "") -> None:
    from onnx import TensorProto, helper, numpy_helper, save

    kind = {"TYPE_UINT8": TensorProto.UINT8, "TYPE_FP32": TensorProto.FLOAT}[dtype]
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "scale"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "colour",
        [helper.make_tensor_value_info("image", kind, ["N", 8, 12, 3])],
        [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3])
            for name in ("logits", "probabilities")
        ],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.float32(0.01), "scale"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "1").mkdir(parents=True)
    save(model, folder / "1" / "model.onnx")
    (folder / "labels.txt").write_text("\n".join(LABELS) + "\n")
    (folder / "config.pbtxt").write_text(CONFIG.format(dtype=dtype, labels=labels, queue=queue))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repository = tmp_path_factory.mktemp("repository")
    write_model(repository / "colour", "TYPE_UINT8", 'label_filename: "labels.txt"')
    write_model(repository / "nameless", "TYPE_UINT8", "")
    # The first request waits for company, and there is no room for a second.
    queue = "max_queue_delay_microseconds: 50000 default_queue_policy { max_queue_size: 1 }"
    write_model(repository / "impatient", "TYPE_UINT8", "", queue)
    write_model(repository / "floating", "TYPE_FP32", "")
    with serve(repository, grpc_port=0, http_port=0, metrics_port=None) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def url(request, server):
    return server.grpc_url if request.param == "grpc" else f"http://{server.http_url}"


@pytest.fixture
def photos(tmp_path):
    """A folder with two images, one in a folder below, and a truncated one."""
    Image.new("RGB", (90, 60), "red").save(tmp_path / "a red.png")
    (tmp_path / "below").mkdir()
    Image.new("RGB", (60, 90), "blue").save(tmp_path / "below" / "blue.JPG", "JPEG")
    (tmp_path / "broken.jpg").write_bytes((tmp_path / "below" / "blue.JPG").read_bytes()[:400])
    (tmp_path / "notes.txt").write_text("not looked at")
    return tmp_path


def solid(colour, size=(30, 20)):
    return np.asarray(Image.new("RGB", size, colour))


def delugeserve(*arguments):
    command = [sys.executable, "-m", "delugeserve", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def run_example(name, *arguments):
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_classifies_in_order_with_labels_and_probabilities(url, photos):
    images = [
        solid("blue"),
        photos / "a red.png",
        str(photos / "below" / "blue.JPG"),
        Image.new("RGB", (9, 99), "lime"),
    ]
    with Classifier(url, "colour") as classifier:
        assert classifier.model.image_shape == (8, 12, 3)
        assert classifier.model.max_batch_size == MAX_BATCH
        results = classifier.classify(images, top_k=2)
    assert [result.top.label for result in results] == ["blue", "red", "blue", "green: grass"]
    assert [result.source for result in results] == [
        "image 1",
        str(photos / "a red.png"),
        str(photos / "below" / "blue.JPG"),
        "image 4",
    ]
    assert all(len(result.predictions) == 2 for result in results)
    assert results[0].top.index == 2
    assert results[0].top.probability == pytest.approx(np.exp(2.55) / (np.exp(2.55) + 2), abs=1e-5)


def test_many_images_keep_their_order(url):
    colours = ["red", "lime", "blue"] * 15 + ["red"]
    with Classifier(url, "colour") as classifier:
        results = classifier.classify([solid(colour) for colour in colours], top_k=1)
    expected = {"red": 0, "lime": 1, "blue": 2}
    assert [result.top.index for result in results] == [expected[colour] for colour in colours]


def test_top_k_ends_at_the_number_of_classes(url):
    with Classifier(url, "colour") as classifier:
        (result,) = classifier.classify([solid("red")], top_k=99)
        assert sum(prediction.probability for prediction in result.predictions) == pytest.approx(1)
        assert {prediction.label for prediction in result.predictions} == set(LABELS)
        assert classifier.classify([]) == []


def test_classes_without_labels_are_numbered(url):
    with Classifier(url, "nameless") as classifier:
        (result,) = classifier.classify([solid("blue")], top_k=1)
    assert result.top.label == "class 2"


def test_unreadable_images(url, photos):
    images = [photos / "broken.jpg", solid("red"), photos / "missing.png", photos]
    with Classifier(url, "colour") as classifier:
        results = classifier.classify(images, on_error="return")
        assert [result.error is None for result in results] == [False, True, False, False]
        assert results[1].top.label == "red"
        for result, image in zip(results, images, strict=True):
            assert result.error is None or str(image) in result.error.problem
        with pytest.raises(ImageError, match=re.escape("broken.jpg")):
            classifier.classify(images)
        assert len(classifier.classify(images[:1] * 20, on_error="return")) == 20


def test_infer_takes_any_number_of_images(url):
    pixels = np.random.default_rng(0).integers(0, 256, (23, 8, 12, 3), dtype=np.uint8)
    with Classifier(url, "colour") as classifier:
        logits = classifier.infer(pixels, "logits")
        probabilities = classifier.infer(pixels)
        assert classifier.infer(pixels[:0]).shape == (0, 3)
        assert classifier.infer(pixels[::-1, :, ::-1], "logits").shape == (23, 3)
        with pytest.raises(BatchError) as caught:
            classifier.infer(pixels.astype(np.float32))
        assert (caught.value.dtype, caught.value.expected_dtype) == ("float32", "uint8")
        with pytest.raises(OutputError):
            classifier.infer(pixels, "scores")
    np.testing.assert_allclose(logits, 0.01 * pixels.mean(axis=(1, 2)), rtol=1e-5)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)


def test_one_grpc_classifier_serves_several_threads(server):
    with Classifier(server.grpc_url, "colour") as classifier, ThreadPoolExecutor(4) as pool:
        colours = ["red", "lime", "blue"] * 10
        answers = pool.map(lambda c: classifier.classify([solid(c)], 1)[0].top.label, colours)
        names = {"red": "red", "lime": "green: grass", "blue": "blue"}
        assert list(answers) == [names[colour] for colour in colours]


def test_models_that_do_not_classify_raw_images(url):
    with pytest.raises(UnsuitableModel, match="FP32") as caught:
        Classifier(url, "floating")
    assert caught.value.model == "floating"


def test_several_models_and_none_named(url):
    with pytest.raises(ModelUnavailable) as caught:
        Classifier(url)
    assert caught.value.model is None
    assert caught.value.served == ("colour", "floating", "impatient", "nameless")


def test_the_servers_only_model(tmp_path):
    write_model(tmp_path / "colour", "TYPE_UINT8", "")
    with serve(tmp_path, grpc_port=0, http_port=0, metrics_port=None) as running:
        for url in (running.grpc_url, f"http://{running.http_url}"):
            with Classifier(url) as classifier:
                assert classifier.model.name == "colour"
                assert classifier.classify([solid("blue")])[0].top.index == 2

        async def use() -> None:
            async with AsyncClassifier(running.grpc_url) as classifier:
                assert (await classifier.connect()).name == "colour"

        asyncio.run(use())
        options = ("--url", running.grpc_url, "--duration", 0.2, "--batch-size", 1, "--json")
        done = delugeserve("benchmark", *options)
        assert {m["model"] for m in json.loads(done.stdout)["measurements"]} == {"colour"}


def test_unknown_models_and_versions(url):
    with pytest.raises(ModelUnavailable, match="'colour'") as caught:
        Classifier(url, "color")
    assert caught.value.model == "color"
    assert caught.value.served == ("colour", "floating", "impatient", "nameless")
    with pytest.raises(ModelUnavailable) as caught:
        Classifier(url, "colour", model_version="7")
    assert (caught.value.model, caught.value.version) == ("colour", "7")
    with Classifier(url, "colour", model_version="1") as classifier:
        assert classifier.classify([solid("red")])[0].top.label == "red"


def test_ports_of_the_other_protocol(server):
    with pytest.raises(WrongProtocol) as caught:
        Classifier(server.http_url, "colour")
    assert caught.value.found == "http"
    with pytest.raises(WrongProtocol) as caught:
        Classifier(f"http://{server.grpc_url}", "colour")
    assert caught.value.found == "grpc"


def test_refused_requests_are_explained(url):
    with Classifier(url, "colour") as classifier:
        # As if the model had been exported again with a smaller batch, meanwhile.
        object.__setattr__(classifier.model, "max_batch_size", MAX_BATCH + 1)
        with pytest.raises(InferenceFailed, match="batch-size must be <= 4"):
            classifier.infer(np.zeros((MAX_BATCH + 1, 8, 12, 3), np.uint8))


def test_a_server_that_stops_and_comes_back(tmp_path):
    write_model(tmp_path / "colour", "TYPE_UINT8", "")
    with serve(tmp_path, grpc_port=0, http_port=None, metrics_port=None) as first:
        classifier = Classifier(first.grpc_url, "colour", timeout=20)
        assert classifier.classify([solid("red")])[0].top.index == 0
    for _ in range(4):  # long enough for gRPC to wait longer from one attempt to the next
        with pytest.raises(ServerUnavailable):
            classifier.classify([solid("red")])
    port = int(first.grpc_url.rpartition(":")[2])
    with serve(tmp_path, grpc_port=port, http_port=None, metrics_port=None):
        assert classifier.classify([solid("red")])[0].top.index == 0
    classifier.close()


def test_async_classifier(server, photos):
    async def use() -> None:
        async with AsyncClassifier(server.grpc_url, "colour") as classifier:
            images = [solid("blue"), photos / "broken.jpg", *[solid("lime")] * 21]
            results, other = await asyncio.gather(
                classifier.classify(images, top_k=1, on_error="return"),
                classifier.classify([solid("red")]),
            )
            assert [r.error is None for r in results] == [True, False, *[True] * 21]
            assert [r.top.index for r in results if r.error is None] == [2, *[1] * 21]
            assert other[0].top.label == "red"
            pixels = np.random.default_rng(0).integers(0, 256, (23, 8, 12, 3), dtype=np.uint8)
            logits = await classifier.infer(pixels, "logits")
            np.testing.assert_allclose(logits, 0.01 * pixels.mean(axis=(1, 2)), rtol=1e-5)
            with pytest.raises(ImageError, match=re.escape("broken.jpg")):
                await classifier.classify(images)
        for url, model, kind in (
            (server.grpc_url, "color", ModelUnavailable),
            (server.grpc_url, "floating", ModelUnavailable),
            (server.http_url, "colour", ServerUnavailable),
        ):
            with pytest.raises(kind):
                await AsyncClassifier(url, model).connect()
        with pytest.raises(AddressError):
            AsyncClassifier(f"http://{server.http_url}")

    asyncio.run(use())


def test_decoding_leaves_the_event_loop_free(server):
    blocked = threading.Event()

    def images():
        blocked.wait(20)  # a slow disk, until the loop's own timer lets it go
        yield solid("red")

    async def use() -> None:
        async with AsyncClassifier(server.grpc_url, "colour") as classifier:
            asyncio.get_running_loop().call_later(0.05, blocked.set)
            assert len(await asyncio.wait_for(classifier.classify(images()), 10)) == 1

    asyncio.run(use())


class Recorder:
    """A Progress that keeps what it receives."""

    def __init__(self):
        self.steps = []

    def stage(self, name, total=None):
        self.total = total

    def advance(self, steps=1):
        self.steps.append((steps, self.total))


# The latencies of a loop of N workers add up to N times its duration, whatever the server does.
@pytest.mark.parametrize("workers", [1, 5])
def test_measures_a_closed_loop(url, workers):
    progress = Recorder()
    measurements = measure(
        url,
        "colour",
        concurrency=[workers],
        batch_sizes=[1, 4],
        duration=0.5,
        warmup=0.1,
        progress=progress,
    )
    assert progress.steps == [(0, 2), (1, 2)]
    for m, batch_size in zip(measurements, (1, 4), strict=True):
        assert (m.batch_size, m.concurrency, m.errors) == (batch_size, workers, 0)
        assert 0.5 <= m.seconds < 2
        assert m.requests * m.mean_ms / 1e3 == pytest.approx(workers * m.seconds, rel=0.2)
        assert m.images_per_s == pytest.approx(m.requests * batch_size / m.seconds)
        assert 0 < m.p50_ms <= m.p90_ms <= m.p95_ms <= m.p99_ms
        assert 0 < m.compute_infer_ms < m.mean_ms
        assert batch_size <= m.executed_batch <= MAX_BATCH


def test_measured_errors_are_counted(url):
    (m,) = measure(url, "impatient", concurrency=[8], batch_sizes=[1], duration=0.5, warmup=0)
    assert m.errors > 0
    assert m.requests > 0


def test_batches_that_the_server_does_not_take(server):
    with pytest.raises(ClientError, match="at most 4 images"):
        measure(server.grpc_url, "colour", batch_sizes=[5])


def test_command_classify(server, photos):
    run = delugeserve("classify", photos, "--model", "colour", "--url", server.grpc_url)
    assert run.returncode == 2
    assert "green: grass" in run.stdout
    (line,) = [line for line in run.stderr.splitlines() if "error:" in line]
    assert str(photos / "broken.jpg") in line
    assert "notes.txt" not in run.stdout + run.stderr
    assert "Traceback" not in run.stderr


def test_command_classify_json(server, photos):
    options = ("--model", "colour", "--url", f"http://{server.http_url}", "--json", "--top-k", 1)
    run = delugeserve("classify", photos / "below", photos / "a red.png", *options)
    assert (run.returncode, run.stderr) == (0, "")
    blue, red = json.loads(run.stdout)
    assert blue["source"] == str(photos / "below" / "blue.JPG")
    assert [prediction["label"] for prediction in blue["predictions"]] == ["blue"]
    assert red["predictions"][0]["index"] == 0
    run = delugeserve("classify", photos / "missing.png", photos / "a red.png", *options)
    assert run.returncode == 2
    missing, red = json.loads(run.stdout)
    assert "no file" in missing["error"]
    assert red["predictions"][0]["label"] == "red"


def test_command_benchmark(server, tmp_path):
    options = ("--model", "colour", "--url", server.grpc_url, "--duration", 0.2, "--warmup", 0.1)
    files = ("--csv", tmp_path / "figures.csv", "--plot", tmp_path / "plot.png")
    run = delugeserve("benchmark", *options, "--batch-size", "1,2", "--concurrency", "1,3", *files)
    assert run.returncode == 0, run.stderr
    assert "p99 ms" in run.stdout
    assert str(tmp_path / "plot.png") in run.stderr
    with (tmp_path / "figures.csv").open() as file:
        pairs = [(row["batch_size"], row["concurrency"]) for row in csv.DictReader(file)]
    assert pairs == [("1", "1"), ("1", "3"), ("2", "1"), ("2", "3")]
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    Image.new("RGB", (50, 50)).save(tmp_path / "image.png")
    one = ("--batch-size", "1", "--concurrency", "2", "--image", tmp_path / "image.png", "--json")
    report = json.loads(delugeserve("benchmark", *options, *one).stdout)
    assert report["machine"]["triton"]
    assert report["measurements"][0]["concurrency"] == 2


@pytest.mark.parametrize(
    ("example", "subject", "says"),
    [
        ("classify_folder.py", "", r"a red\.png\tred\t0\.\d{3}\n"),
        ("async_requests.py", "a red.png", r"20 requests in \d+\.\d\d s: red\n"),
        ("latency_tritonclient.py", None, r"p50: .* ms\np90: .* ms\np95: .* ms\np99: .* ms\n"),
    ],
)
def test_examples(server, photos, example, subject, says):
    few = [] if subject == "" else ["--requests", "20"]
    arguments = [] if subject is None else [str(photos / subject)]
    done = run_example(example, *arguments, "--model", "colour", "--url", server.grpc_url, *few)
    assert done.returncode == 0, done.stderr
    assert re.search(says, done.stdout)
