"""A repository with two very small models, and a folder for temporary files of its own."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_network import add_model

from delugeserve.serving import private_folder


@pytest.fixture(scope="module", autouse=True)
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The only temporary folder, of this process and of those it starts."""
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr("tempfile.tempdir", None)
        patch.setattr(private_folder, "FALLBACK_FOLDERS", ())
        yield folder


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("onnx", "openvino", "onnxruntime", "tritonclient.grpc", "tritonclient.http"):
        pytest.importorskip(module, reason="a server and its models need the extras")
    if shutil.which("tritonserver") is None:
        pytest.importorskip("pytriton.constants", reason="there is no tritonserver")
    # The space in the name is deliberate: the server's Python backend does not survive one.
    folder = tmp_path_factory.mktemp("model repository")
    add_model(folder, "tiny")
    add_model(folder, "tiny_ov", "openvino")
    # What an exporter at work may leave in the way, which the server alone would stumble over.
    (folder / ".staging" / "1").mkdir(parents=True)
    (folder / "empty").mkdir()
    (folder / "README.md").write_text("models\n")
    return folder
