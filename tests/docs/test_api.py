"""The public API: `__all__` of the three packages, docs/api.md, and the examples in the docs."""

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import delugeserve

ROOT = Path(__file__).parents[2]
PACKAGES = ("delugeserve", "delugeserve.load", "delugeserve_client", "delugeserve_export")


def documented(package):
    """The names in the tables of a package's section in docs/api.md."""
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    (section,) = re.findall(rf"^## {package}\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    return re.findall(r"^\| `(\w+)` \| .", section, re.MULTILINE)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_resolves_and_is_documented_once(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert sorted(documented(package)) == sorted(module.__all__)


def test_the_lazy_names_are_those_that_type_checkers_see():
    tree = ast.parse(Path(delugeserve.__file__).read_text())
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    ]
    seen = {
        alias.name: node.module.removeprefix("delugeserve.")
        for node in block.body
        for alias in node.names
    }
    lazy = {name: home for home, names in delugeserve._HOMES.items() for name in names.split()}
    assert lazy == seen
    assert sorted([*lazy, "__version__"]) == sorted(delugeserve.__all__)


def test_names_are_listed_and_unknown_ones_are_refused():
    assert set(delugeserve.__all__) <= set(dir(delugeserve))
    with pytest.raises(AttributeError, match="no_such_name"):
        delugeserve.no_such_name  # noqa: B018


def test_importing_the_package_imports_nothing_else():
    code = "import sys, delugeserve; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "delugeserve" in done.stdout.split()
    assert not {"torch", "numpy", "onnx", "rich", "typer"} & set(done.stdout.split())


def test_the_errors_of_the_api_are_the_tree():
    from delugeserve import errors

    tree = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    public = {name for name in delugeserve.__all__ if name in tree}
    assert public == tree
