"""Fixtures: Python-based Triton backends, repositories of several versions, and others."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from delugeserve import serving
from delugeserve.artifacts.manifest import ARTIFACT, artefact_digest, describe_files
from delugeserve.artifacts.model_config import InstanceGroup, classifier_config
from delugeserve.artifacts.preprocessing import preprocessing_of, preprocessing_parameters
from delugeserve.artifacts.serving_records import GENERATED, pin
from delugeserve.runtimes import BACKENDS
from delugeserve.system.files import sha256
from delugeserve.zoo import CIFAR10, MODELS

SOURCES = Path(serving.__file__).parent / "backends"


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


@pytest.fixture
def pb_utils(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A fake of Triton's module for Python models; ``logged`` holds its error messages."""
    triton = ModuleType("triton_python_backend_utils")
    triton.get_input_tensor_by_name = lambda asked, name: Tensor(name, getattr(asked, name))
    triton.Tensor, triton.InferenceResponse, triton.TritonError = Tensor, Response, Error
    triton.TritonModelException = type("TritonModelException", (Exception,), {})
    triton.logged = []
    triton.Logger = SimpleNamespace(log_error=triton.logged.append)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)
    return triton


@pytest.fixture
def load_backend(
    pb_utils: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], ModuleType]:
    """Import the ``model.py`` of a backend of ours as Triton does, with its support files."""

    def load(name: str) -> ModuleType:
        files = [
            SOURCES / "batching.py",
            *BACKENDS[name].support_files,
            SOURCES / name / "model.py",
        ]
        for path in files:
            spec = importlib.util.spec_from_file_location(path.stem, path)
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, path.stem, module)
            spec.loader.exec_module(module)
        module.pb_utils = pb_utils
        return module

    return load


class AtStage:
    """A progress that acts when a stage begins."""

    def __init__(self, prefix, action):
        self.prefix, self.action = prefix, action
        self.stages, self.notes = [], []

    def stage(self, name, total=None):
        self.stages.append((name, total))
        if name.startswith(self.prefix):
            self.action()

    def advance(self, steps=1, note=""):
        self.notes.append(note)


@pytest.fixture(scope="session")
def at_stage():
    """Make a progress from the beginning of a stage's name and what to do when it begins."""
    return AtStage


@pytest.fixture(scope="session")
def write_class_folders():
    """Write class folders of plain images, each class with a grey level of its own."""

    def write(folder, names, *, splits=("",), images=9, size=40):
        for split in splits:
            for level, name in enumerate(names):
                (folder / split / name).mkdir(parents=True, exist_ok=True)
                for number in range(images):
                    # One corner tells images of a class apart.
                    image = Image.new("RGB", (size, size), (60 + 40 * level % 195,) * 3)
                    image.putpixel((0, 0), (number, len(split), level))
                    image.save(folder / split / name / f"{number}.png")
        return folder

    return write


ENSEMBLE = """
name: "net_image" platform: "ensemble" max_batch_size: 8
input { name: "image" data_type: TYPE_STRING dims: [1] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [2] }
ensemble_scheduling {
  step { model_name: "net_decode" model_version: -1
    input_map { key: "encoded" value: "image" } output_map { key: "image" value: "pixels" } }
  step { model_name: "net" model_version: -1
    input_map { key: "image" value: "pixels" }
    output_map { key: "probabilities" value: "probabilities" } }
}
parameters { key: "companion_of" value { string_value: "net" } }
"""
DECODER = """
name: "net_decode" backend: "python" max_batch_size: 8
input { name: "encoded" data_type: TYPE_STRING dims: [1] }
output { name: "image" data_type: TYPE_UINT8 dims: [32, 32, 3] }
instance_group { count: 2 kind: KIND_CPU }
parameters { key: "companion_of" value { string_value: "net" } }
"""


@pytest.fixture(scope="session")
def add_version(make_manifest):
    """Write versions without exporting them: number to backend, largest batch, classes."""

    def add_version(repository, number, backend="onnxruntime", largest=8, classes=("cat", "dog"),
            companions=False, **manifest):  # fmt: skip
        folder = repository / "net" / str(number)
        folder.mkdir(parents=True)
        artefact = {"onnxruntime": "model.onnx", "openvino": "model.xml"}[backend]
        (folder / artefact).write_text(f"weights {number}")
        (folder / "labels.txt").write_text("".join(f"{name}\n" for name in classes))
        sums = {path.name: sha256(path) for path in folder.iterdir()}
        config = classifier_config(
            name="net",
            backend=backend,
            artefact=artefact,
            max_batch_size=largest,
            image_size=32,
            num_classes=len(classes),
            instance_group=InstanceGroup(number, "KIND_CPU"),
            parameters=preprocessing_parameters(preprocessing_of(CIFAR10))
            | {ARTIFACT: artefact_digest(sums)}
            | ({"HINT_BF16": "YES"} if number == 2 else {}),
        )
        (folder / GENERATED).write_text(config.to_text())
        make_manifest(
            network=MODELS["delugenet38"].with_classes(tuple(classes)),
            backend=backend,
            artefact=artefact,
            max_batch_size=largest,
            files=describe_files(sorted(folder.iterdir())),
            **manifest,
        ).write(folder)
        texts = {"net": config.to_text()}
        if companions:
            for name, text in (("net_decode", DECODER), ("net_image", ENSEMBLE)):
                if companions == "alike":  # they state their preprocessing
                    digest = preprocessing_of(CIFAR10).digest
                    text += f'parameters {{ key: "preprocessing" value {{ string_value: "{digest}" '
                    text += "} }"
                own = repository / name / str(number)
                own.mkdir(parents=True)
                (own / GENERATED).write_text(text)
                texts[name] = text
            (own / "labels.txt").write_text("".join(f"{name}\n" for name in classes))
        for name, text in texts.items():
            header = f"# 'delugeserve export' wrote this file for version {number}. Next.\n"
            path = repository / name / "config.pbtxt"
            path.write_text(header + pin(text, number, labels=name != "net_decode"))

    return add_version


@pytest.fixture(scope="session")
def three_versions(add_version):
    """Write three versions of another backend or batch size each; the third is served."""

    def three_versions(repository):
        add_version(repository, 1)
        add_version(repository, 2, "openvino", 16)
        add_version(repository, 3, largest=32)
        return repository

    return three_versions


@pytest.fixture
def repository(tmp_path, three_versions):
    """A repository with three versions of the model ``net``; the third is served."""
    return three_versions(tmp_path)
