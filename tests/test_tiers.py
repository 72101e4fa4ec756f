"""The tiers of tests and the folder for temporary files, as tests/conftest.py makes them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_every_module_in_the_list_of_slow_ones_exists(request):
    conftest = request.config.pluginmanager.get_plugin(str(HERE / "conftest.py"))
    assert conftest.SLOW
    missing = [name for name in conftest.SLOW if not (HERE / name).is_file()]
    assert not missing, "renamed? tests/conftest.py lists them in SLOW"


@pytest.mark.slow
def test_a_run_has_its_own_temporary_folder_and_removes_it(tmp_path):
    assert Path(tempfile.gettempdir()).name.startswith("ds-")
    assert os.environ["TMPDIR"] == tempfile.gettempdir()
    code = """def test_it(tmp_path):
    import os, pathlib, subprocess, sys, tempfile
    assert tempfile.gettempdir() != os.environ["OUTER"]
    assert pathlib.Path(tempfile.gettempdir()) in tmp_path.parents
    child = [sys.executable, "-c", "import tempfile; print(tempfile.mkdtemp())"]
    left = subprocess.run(child, capture_output=True, text=True, check=True).stdout
    assert left.startswith(tempfile.gettempdir())
"""
    outer, tests = tmp_path / "outer", tmp_path / "tests"
    outer.mkdir()
    tests.mkdir()
    (tests / "test_it.py").write_text(code)
    (tests / "conftest.py").symlink_to(HERE / "conftest.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tests, tests],
        env={**os.environ, "TMPDIR": str(outer), "OUTER": str(outer)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert list(outer.iterdir()) == []


@pytest.mark.parametrize("name", ["DELUGESERVE_DATA", "DELUGESERVE_REQUIRE_DATA"])
def test_no_test_sees_the_data_set_of_the_environment(name):
    assert name not in os.environ
