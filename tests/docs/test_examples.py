"""The Python examples in the README and in docs/: they import the public API only, and run."""

import ast
import importlib
import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("delugeserve", "delugeserve_client", "delugeserve_export")


def examples():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 2
            marks = ()
            if re.search(r"Classifier\(|serve\(", match[1]):
                marks = (pytest.mark.system, pytest.mark.slow)
            name = f"{page.name}-{line}"
            yield pytest.param(match[1], marks=marks, id=name)


@pytest.mark.parametrize("code", list(examples()))
def test_an_example_imports_public_names_only(code):
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] in PACKAGES:
            assert node.module in PACKAGES
            public = importlib.import_module(node.module).__all__
            assert {alias.name for alias in node.names} <= set(public)
        if isinstance(node, ast.Import):
            assert all("delugeserve" not in a.name or a.name in PACKAGES for a in node.names)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, write_tiny_cifar):
    """What the examples name: a run, a data set, a model repository and pictures."""
    import skimage
    from PIL import Image

    from delugeserve.zoo import find_model

    folder = tmp_path_factory.mktemp("examples")
    (folder / "runs" / "first").mkdir(parents=True)
    shutil.copy(find_model("delugenet38").weights, folder / "runs" / "first")
    write_tiny_cifar(folder / "cifar10")
    pictures = Path(str(skimage.__file__)).parent / "data"
    for name in ("cat.jpg", "ship.png"):
        Image.open(pictures / "chelsea.png").convert("RGB").save(folder / name)
    return folder


@pytest.fixture
def server(code, folder, run, monkeypatch):
    """The address of a server of the examples' repository, for those that ask one."""
    if not re.search(r"Classifier\(|serve\(", code):
        yield None
        return
    from delugeserve import serve

    monkeypatch.chdir(folder)
    if not (folder / "model_repository").exists():
        options = ("--backend", "onnxruntime", "--max-batch-size", "8")
        assert run("export", "--model", "delugenet38", *options)[0] == 0
    if "Classifier(" not in code:
        yield None
        return
    repository = folder / "model_repository"
    with serve(repository, grpc_port=0, http_port=None, metrics_port=None) as running:
        yield running.grpc_url


@pytest.mark.parametrize("code", list(examples()))
def test_an_example_runs(code, folder, server, monkeypatch):
    monkeypatch.chdir(folder)
    if server:
        assert "localhost:8001" in code
        code = code.replace("localhost:8001", server)
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})
