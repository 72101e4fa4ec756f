"""All checks together, and the command ``delugeserve doctor``."""

import json
import os
import subprocess
import sys

import pytest

from delugeserve.doctor import backends, diagnose

WITHOUT_EXTRAS = """
import importlib.metadata
import sys
from importlib.machinery import PathFinder

HIDDEN = {"torch", "onnx", "onnxruntime", "openvino", "filelock", "pytriton", "nvidia-pytriton"}

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in HIDDEN
        return None if hidden else super().find_spec(name, path, target)

    @classmethod
    def find_distributions(cls, context=importlib.metadata.DistributionFinder.Context()):
        return [] if context.name in HIDDEN else super().find_distributions(context)

sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
from delugeserve import cli
cli.main()
"""


def test_the_base_installation(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, "doctor", "--json"],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PATH": "/nowhere"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {(one["section"], one["subject"]): one for one in json.loads(done.stdout)}
    export = found["extras", "export"]
    assert export["status"] == "absent"
    assert export["text"].endswith(": filelock, onnx, onnxruntime, openvino, torch")
    assert export["remedy"] == "Install it with: pip install 'delugeserve[export]'"
    for name in ("onnxruntime", "openvino"):
        assert found["backends", name]["status"] == "absent"
    assert found["server", "Triton"]["status"] == "absent"
    assert found["repository", "model_repository"]["status"] == "absent"


@pytest.fixture
def fast_imports(monkeypatch):
    """Skip importing the runtimes, which takes seconds; test_backends.py imports them."""
    monkeypatch.setattr(backends, "import_runtime", lambda module: backends.Runtime("1.0"))


@pytest.mark.usefixtures("fast_imports")
def test_sections_and_progress(tmp_path):
    class Recorder:
        stages = ()

        def stage(self, name, total=None):
            self.stages += (name,)

        def advance(self, steps=1):
            pass

    recorder = Recorder()
    sections = dict.fromkeys(one.section for one in diagnose(tmp_path / "nowhere", recorder))
    assert list(sections) == [
        "machine",
        "extras",
        "backends",
        "server",
        "known faults of this server",
        "repository",
    ]
    assert len(recorder.stages) == 5


def test_a_repository_that_was_given_must_exist(run, tmp_path):
    status, out, err = run("doctor", "--repository", tmp_path / "nowhere")
    assert (status, out) == (2, "")
    assert str(tmp_path / "nowhere") in err


@pytest.mark.slow
@pytest.mark.usefixtures("fast_imports")
def test_exit_status_and_output(run, stored):
    status, out, err = run("doctor", "--repository", stored)
    assert status == 0, out
    headings = [line for line in out.splitlines() if line and "  " not in line]
    assert headings[:3] == ["machine", "extras", "backends"]
    assert "0 problems, " in err
    (stored / "tiny" / "1" / "model.onnx").write_bytes(b"")
    status, out, err = run("doctor", "--repository", stored)
    assert status == 1
    # Not wrapped, so that it can be pasted.
    (line,) = [line for line in out.splitlines() if line.startswith("problem")]
    assert "1/model.onnx" in line
    assert "delugeserve export --checkpoint tiny.safetensors" in out.splitlines()[-1]
    assert str(stored) in out.splitlines()[-1]
    assert "1 problem, " in err


@pytest.mark.usefixtures("fast_imports")
def test_json(run, stored):
    status, out, _ = run("doctor", "--repository", stored, "--json")
    assert status == 0
    assert all(
        list(one) == ["section", "subject", "status", "text", "remedy"] for one in json.loads(out)
    )
