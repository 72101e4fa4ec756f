"""The environment of a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from delugeserve.serving.placement import Placement


def test_libraries_and_python(prepare, monkeypatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/mine")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    environment = prepare().environment
    assert environment["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    # The model processes find Python and its packages by the first python3 on PATH.
    python = Path(environment["PATH"].split(":")[0]) / "python3"
    found = subprocess.run(
        [python, "-I", "-c", "import numpy, sys; print(numpy.__file__, sys.base_prefix)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert found == [np.__file__, sys.base_prefix]
    python_library, libraries, inherited = environment["LD_LIBRARY_PATH"].split(":")
    assert [path.name for path in Path(python_library).iterdir()] in (
        [f"libpython3.{sys.version_info.minor}.so.1.0"],
        [],
    )
    assert (Path(libraries) / "libtriton.so").is_file()
    assert inherited == "/opt/mine"


def test_cuda_shows_one_gpu(prepare):
    placement = Placement("GPU 1", gpu="1")
    assert prepare(placement=placement).environment["CUDA_VISIBLE_DEVICES"] == "1"
