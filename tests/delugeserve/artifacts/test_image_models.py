"""The models that take encoded images: their configurations, and the decoder with a fake Triton."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest
from google.protobuf import text_format
from PIL import Image
from tritonclient.grpc import model_config_pb2 as pb

from delugeserve.artifacts.companions import (
    check_names,
    companion_names,
    companion_of,
    find_companions,
)
from delugeserve.artifacts.image_models import (
    ENCODED,
    PROBE_IMAGE,
    decoder_config,
    ensemble_config,
    stage_companions,
    write_decoder,
    write_pipeline,
)
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config
from delugeserve.errors import RepositoryError
from delugeserve_client.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(16, 16, 20)
MODEL = classifier_config(
    name="net",
    backend="onnxruntime",
    artefact="model.onnx",
    max_batch_size=8,
    image_size=16,
    num_classes=3,
    instance_group=InstanceGroup(),
    parameters={},
)
KINDS = ("JPEG", "PNG", "WEBP", "GIF", "AVIF")


def encode(kind="JPEG", seed=0, size=(40, 30)):
    noise = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize(size).save(stream, kind)
    return stream.getvalue()


def request(*images, **parameters):
    return SimpleNamespace(
        **{ENCODED: np.array(images, object).reshape(-1, 1)},
        parameters=lambda: json.dumps(parameters),
    )


def message(config):
    return text_format.Parse(config.serving(3).to_text(), pb.ModelConfig())


def test_the_ensemble_runs_one_version_of_decoder_and_model():
    ensemble = message(ensemble_config(MODEL, PREPROCESSING))
    assert (ensemble.name, ensemble.platform, ensemble.max_batch_size) == (
        "net_image",
        "ensemble",
        8,
    )
    (image,), (probabilities, error) = ensemble.input, ensemble.output
    assert (image.data_type, list(image.dims)) == (pb.TYPE_STRING, [1])
    assert probabilities.label_filename == "3/labels.txt"
    assert (error.name, error.data_type, error.label_filename) == ("error", pb.TYPE_STRING, "")
    steps = ensemble.ensemble_scheduling.step
    assert [(one.model_name, one.model_version) for one in steps] == [("net_decode", 3), ("net", 3)]
    decoder = message(decoder_config(MODEL, PREPROCESSING))
    assert list(steps[0].input_map) == [one.name for one in decoder.input]
    assert sorted(steps[0].output_map) == sorted(one.name for one in decoder.output)
    assert list(steps[1].input_map) == list(MODEL.inputs)
    assert decoder.output[0].data_type == pb.TYPE_UINT8
    assert not decoder.output[0].label_filename
    assert decoder.HasField("dynamic_batching")


def test_companions_are_known_by_name_and_parameter(tmp_path):
    for name in ("net", "net_decode", "net_image", "other_image", "net_image_image"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").write_text(f'name: "{name}"')
    assert find_companions(tmp_path / "net") == []
    for config in (decoder_config(MODEL, PREPROCESSING), ensemble_config(MODEL, PREPROCESSING)):
        (tmp_path / config.name / "config.pbtxt").write_text(config.serving(1).to_text())
    found = [folder.name for folder in find_companions(tmp_path / "net")]
    assert found == list(companion_names("net"))
    assert companion_of(tmp_path / "net_image") == "net"
    by_hand = 'parameters: { key: "companion_of", value: { string_value: "net" } }'
    (tmp_path / "net_image" / "config.pbtxt").write_text(by_hand)
    assert companion_of(tmp_path / "net_image") == "net"
    # Copied under another name, it belongs to no model.
    (tmp_path / "other_image" / "config.pbtxt").write_text(by_hand)
    assert companion_of(tmp_path / "other_image") is None


def test_other_models_are_not_replaced(tmp_path):
    check_names(tmp_path / "new", "net", companions=True)
    (tmp_path / "net_image").mkdir()
    config = tmp_path / "net_image" / "config.pbtxt"
    config.write_text('name: "net_image"')
    with pytest.raises(RepositoryError, match="another one") as caught:
        check_names(tmp_path, "net", companions=True)
    assert caught.value.path == tmp_path / "net_image"
    check_names(tmp_path, "net", companions=False)
    config.write_text(ensemble_config(MODEL, PREPROCESSING).to_text())
    check_names(tmp_path, "net", companions=True)
    with pytest.raises(RepositoryError, match="encoded images of the model 'net'"):
        check_names(tmp_path, "net_image", companions=True)


def test_what_is_staged(tmp_path):
    decoder, ensemble = stage_companions(MODEL, PREPROCESSING, ("a", "b", "c"), tmp_path)
    assert [one.name for one in (decoder, ensemble)] == list(companion_names("net"))
    assert (ensemble.files / "labels.txt").read_text() == "a\nb\nc\n"
    assert (decoder.files / "model.py").is_file()
    assert not (decoder.files / "labels.txt").exists()


def test_the_decoder_needs_numpy_and_pillow_alone(tmp_path):
    write_decoder(tmp_path)
    (tmp_path / "triton_python_backend_utils.py").write_text("")
    script = f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        import model
        foreign = ("delugeserve", "tritonclient", "torch", "onnx")
        assert not set(foreign) & set(sys.modules), set(foreign) & set(sys.modules)
        assert sys.modules["delugeserve_client"].__file__.startswith({str(tmp_path)!r})
        assert model.Preprocessing(16, 16, 20).digest == {PREPROCESSING.digest!r}
    """
    subprocess.run([sys.executable, "-I", "-c", textwrap.dedent(script)], check=True, timeout=60)


@pytest.fixture
def load(pb_utils, monkeypatch, tmp_path):
    """Load the decoder from a version's folder, as Triton does; it has two cores."""
    write_decoder(tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1}, raising=False)

    def load(instances=1, **parameters):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", list(sys.path))
            patch.setattr(sys, "dont_write_bytecode", True)
            spec = importlib.util.spec_from_file_location("model", tmp_path / "model.py")
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        config = decoder_config(MODEL, PREPROCESSING)
        decoder = module.TritonPythonModel()
        stated = {**config.parameters, **parameters}
        decoder.initialize(
            {
                "model_config": json.dumps(
                    {
                        "input": [{"name": ENCODED, "dims": [1]}],
                        "output": [
                            {"name": "image", "dims": [16, 16, 3]},
                            {"name": "error", "dims": [1]},
                        ],
                        "instance_group": [{"count": instances}],
                        "parameters": {key: {"string_value": one} for key, one in stated.items()},
                    }
                )
            }
        )
        return decoder

    return load


@pytest.mark.parametrize("instances", [1, 2])
def test_requests_are_answered_with_the_clients_pixels(load, instances):
    images = [encode(kind, seed) for seed, kind in enumerate(KINDS)]
    responses = load(instances).execute(
        [request(*images[:3]), request(images[3]), request(images[4])]
    )
    assert [response.error for response in responses] == [None] * 3
    found = np.concatenate([response.outputs["image"] for response in responses])
    np.testing.assert_array_equal(found, [PREPROCESSING(image) for image in images])
    assert found.dtype == np.uint8


def test_a_bad_image_fails_its_own_request_alone(load):
    good = encode()
    requests = [
        request(good),
        request(b"no picture"),
        request(good, b"", good[:200]),
        request(good),
    ]
    first, second, third, last = load().execute(requests)
    for response in (first, last):
        np.testing.assert_array_equal(response.outputs["image"], [PREPROCESSING(good)])
    assert second.error.message == (
        "The image is not an image in a supported format. If it is an image, convert it to JPEG "
        "or PNG."
    )
    assert third.error.message.startswith("Image 2 is not an image")
    assert third.error.message.endswith("1 more cannot be read either.")
    assert second.outputs == third.outputs == {}


def test_a_request_may_ask_for_errors_in_place_of_answers(load):
    good = encode()
    (response,) = load().execute([request(good, b"no image", good, on_error="return")])
    assert response.error is None
    expected = [PREPROCESSING(good), np.zeros((16, 16, 3)), PREPROCESSING(good)]
    np.testing.assert_array_equal(response.outputs["image"], expected)
    first, second, third = response.outputs["error"][:, 0]
    assert (first, third) == ("", "")
    assert second.startswith("Image 2 is not an image")
    (refused,) = load().execute([request(good, on_error="ignore")])
    assert "'raise' nor 'return'" in refused.error.message


def test_large_images_are_decoded_one_at_a_time(load, monkeypatch):
    decoder, held = load(), []
    monkeypatch.setitem(decoder._decode.__globals__, "_LARGE", 100 * 80)

    class Lock:
        def __enter__(self):
            held.append("taken")

        def __exit__(self, *_):
            held.append("free")

    decoder._large = Lock()
    decoder.execute([request(encode(size=(100, 80)))])
    assert held == []
    decoder.execute([request(encode(size=(101, 80)), encode(size=(20, 20)))])
    assert held == ["taken", "free"]


def test_an_unforeseen_error_stays_in_the_log(load, pb_utils, monkeypatch):
    decoder = load()

    def fail(content, source):
        raise RuntimeError("/secret/place/model.bin")

    monkeypatch.setattr(decoder, "_decode", fail)
    (response,) = decoder.execute([request(encode())])
    assert "secret" not in response.error.message


def mutate(rng, content):
    """Return damaged bytes: some changed, some cut out, or the end cut off."""
    damaged = bytearray(content)
    for _ in range(rng.integers(1, 9)):
        damaged[rng.integers(len(damaged))] = rng.integers(256)
    if rng.random() < 0.3:
        start = rng.integers(len(damaged))
        del damaged[start : start + rng.integers(1, 60)]
    if rng.random() < 0.3:
        del damaged[rng.integers(1, len(damaged)) :]
    return bytes(damaged) or b"\0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_images_do_not_disturb_their_neighbours(load, kind):
    rng = np.random.default_rng(KINDS.index(kind))
    decoder, content = load(), encode(kind)
    good, refused = PREPROCESSING(content), 0
    for _ in range(6):
        batch = [request(mutate(rng, content)) if n % 2 else request(content) for n in range(12)]
        responses = decoder.execute(batch)
        for number, response in enumerate(responses):
            if number % 2 == 0:
                np.testing.assert_array_equal(response.outputs["image"], [good])
            elif response.error is None:
                assert response.outputs["image"].shape == (1, 16, 16, 3)
            else:
                refused += 1
                said = response.error.message
                assert not re.search(r"Traceback|BytesIO| at 0x|\.py|/\w+/|\n", said), said
                assert said.endswith((".", "pillow-heif")), said
    assert refused > 5


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"preprocessing": "0" * 16}, "exported for the preprocessing 0000"),
        ({"resize_size": "21"}, "Export the model again"),
        ({"resize_size": "large"}, "needs the parameters"),
    ],
)
def test_another_preprocessing_is_refused(load, pb_utils, parameters, says):
    with pytest.raises(pb_utils.TritonModelException, match=says):
        load(**parameters)


def test_a_decoder_for_dali(tmp_path):
    decoder, ensemble = stage_companions(
        MODEL, PREPROCESSING, ("a", "b", "c"), tmp_path, decoder="dali"
    )
    config = text_format.Parse(decoder.record, pb.ModelConfig())
    assert config.backend == "dali"
    assert (config.input[0].data_type, list(config.input[0].dims)) == (pb.TYPE_UINT8, [-1])
    assert config.input[0].allow_ragged_batch
    assert text_format.Parse(ensemble.record, pb.ModelConfig()).input[0].data_type == pb.TYPE_UINT8
    (pipeline,) = decoder.files.iterdir()
    assert pipeline.name == "dali.py"
    assert "RESIZE_SIZE, BATCH_SIZE = 16, 16, 20, 8\n" in pipeline.read_text()


def test_the_pipeline_for_dali_gives_nearly_the_clients_pixels(tmp_path):
    pytest.importorskip("nvidia.dali", reason="needs DALI (nvidia-dali-cuda120)")
    skimage = pytest.importorskip("skimage.data", reason="needs photographs (scikit-image)")
    images = []
    for name, orientation in (("astronaut", 1), ("chelsea", 6), ("coffee", 3)):
        stream, exif = io.BytesIO(), Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(getattr(skimage, name)()).save(stream, "JPEG", quality=92, exif=exif)
        images.append(stream.getvalue())
    preprocessing = Preprocessing(224, 168, 200)
    write_pipeline(tmp_path, MODEL, preprocessing)
    script = (tmp_path / "dali.py").read_text()
    on_cpu = script.replace('DECODER, DEVICE = "mixed", 0', 'DECODER, DEVICE = "cpu", None')
    assert on_cpu != script
    (tmp_path / "dali_on_cpu.py").write_text(on_cpu)
    spec = importlib.util.spec_from_file_location("dali_on_cpu", tmp_path / "dali_on_cpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["dali_on_cpu"] = module  # DALI reads the source of the function
    spec.loader.exec_module(module)
    pipeline = module.decoder()
    pipeline.build()
    pipeline.feed_input(ENCODED, [np.frombuffer(one + bytes(9), np.uint8) for one in images])
    (found,) = pipeline.run()
    expected = np.stack([preprocessing(image) for image in images]).astype(int)
    difference = np.abs(found.as_array() - expected)
    assert difference.mean() < 0.3
    assert difference.max() < 20
    assert pipeline.serialize()


def test_the_probe_is_an_image():
    assert PREPROCESSING(PROBE_IMAGE).min() == 255
    # NumPy cuts trailing NULs off bytes.
    assert np.array([PROBE_IMAGE]).item() == PROBE_IMAGE
