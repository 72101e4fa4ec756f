"""The Python examples in the README and in docs/: they import the public API only, and run."""

import ast
import importlib
import re
import shutil
from pathlib import Path

import pytest
import typer

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("delugeserve", "delugeserve.load", "delugeserve_client", "delugeserve_export")

ASKS_A_SERVER = re.compile(
    r"from delugeserve_client import|InferenceServerClient\(|prepare_target\("
)
STARTS_A_SERVER = "serve("
TRAINS = "train("
EXPORTS = "plan_export("


def examples():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            line = text[: match.start()].count("\n") + 2
            marks = ()
            if ASKS_A_SERVER.search(match[1]) or STARTS_A_SERVER in match[1]:
                marks = (pytest.mark.system,)
            if TRAINS in match[1] or EXPORTS in match[1]:
                marks = (pytest.mark.slow,)
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
    (folder / "photos").mkdir()
    for name in ("cat.jpg", "ship.png", "photos/cat.jpg"):
        Image.open(pictures / "chelsea.png").convert("RGB").save(folder / name)
    return folder


@pytest.fixture(scope="module")
def repository(folder):
    from delugeserve.cli import app

    options = ["--backend", "onnxruntime", "--max-batch-size", "8"]
    repository = folder / "model_repository"
    arguments = ["export", "--model", "delugenet38", *options, "--repository", str(repository)]
    typer.main.get_command(app).main(arguments, standalone_mode=False)
    return repository


@pytest.fixture(scope="module")
def address(repository):
    """The address of a server of the examples' repository."""
    from delugeserve import serve

    with serve(repository, grpc_port=0, http_port=None, metrics_port=None, direct=True) as running:
        yield running.grpc_url


@pytest.mark.parametrize("code", list(examples()))
def test_an_example_runs(code, folder, request, monkeypatch):
    monkeypatch.chdir(folder)
    if STARTS_A_SERVER in code:
        request.getfixturevalue("repository")
    if ASKS_A_SERVER.search(code):
        address = request.getfixturevalue("address")
        asked = code.replace("Classifier()", 'Classifier("localhost:8001")')
        assert "localhost:8001" in asked
        code = asked.replace("localhost:8001", address)
    exec(compile(code, "example", "exec"), {"__name__": "__main__"})
