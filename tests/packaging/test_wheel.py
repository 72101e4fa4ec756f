"""What the wheel contains."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "delugeserve": ROOT / "delugeserve",
    "delugeserve_export": ROOT / "export" / "delugeserve_export",
    "delugeserve_client": ROOT / "clients" / "delugeserve_client",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling", reason="needs the extra 'dev'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.iterdir()
    assert file.name.startswith("delugeserve-")
    with zipfile.ZipFile(file) as content:
        yield content


def test_it_holds_the_three_packages_and_nothing_else(wheel):
    tops = {name.partition("/")[0] for name in wheel.namelist()}
    (metadata,) = [top for top in tops if top.endswith(".dist-info")]
    assert tops == {*PACKAGES, metadata}


def test_it_holds_every_file_of_the_packages(wheel):
    """Code, type marker, weights, class lists, backends, templates: as the checkout has them."""
    expected = {
        f"{name}/{path.relative_to(folder).as_posix()}"
        for name, folder in PACKAGES.items()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == expected
    for name in PACKAGES:
        assert f"{name}/py.typed" in held
    for kind in (
        r"delugeserve/weights/\w+\.safetensors",
        r"delugeserve/data/classes/\w+\.txt",
        r"delugeserve/serving/backends/\w+/model\.py",
        r"delugeserve_export/[\w/.]+\.jinja",
    ):
        assert any(re.fullmatch(kind, name) for name in held), kind


def test_it_holds_no_tests_and_no_bytecode(wheel):
    for name in wheel.namelist():
        assert not re.search(r"__pycache__|\.pyc$|(^|/)tests?/|conftest|(^|/)test_", name)


def test_the_command_and_the_extras_are_declared(wheel):
    names = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    entry = wheel.read(names["entry_points.txt"]).decode()
    assert "delugeserve = delugeserve.cli:main" in entry
    metadata = wheel.read(names["METADATA"]).decode()
    extras = set(re.findall(r"^Provides-Extra: (\S+)", metadata, re.MULTILINE))
    assert {"train", "export", "server", "benchmark", "demo", "tensorrt"} <= extras
    required = re.findall(r"^Requires-Dist: ([\w-]+)((?!extra ==).)*$", metadata, re.MULTILINE)
    base = {name for name, _ in required}
    assert base == {"numpy", "pillow", "rich", "tritonclient", "typer"}
