"""Fixtures: Python-based Triton backends, and progress that acts at a stage."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from PIL import Image

from delugeserve import serving
from delugeserve.runtimes import BACKENDS

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
