"""The private folder of a server."""

from __future__ import annotations

from pathlib import Path

from delugeserve.serving.private_folder import sweep


def test_private_folder(prepare, installation, model):
    folder = prepare().folder
    assert (folder.models / "tiny").resolve() == model().folder
    python = folder.backends / "python"
    # The server refuses a backend library that is a link out of the backend's folder.
    assert not (python / "libtriton_python.so").is_symlink()
    assert (python / "triton_python_backend_stub").resolve() == installation.stub
    for name, more in (("onnxruntime", []), ("openvino", ["openvino_engine.py"])):
        files = sorted(path.name for path in (folder.backends / name).iterdir())
        assert files == ["batching.py", "model.py", *more]


def test_sweep_removes_what_a_killed_guardian_left_and_nothing_else(prepare, temporary):
    running, dead = prepare().folder, prepare().folder
    # A guardian shares the open file; here there is none.
    dead.lock.close()
    regions = [Path("/dev/shm") / f"{folder.shm_prefix}test" for folder in (running, dead)]
    for region in regions:
        region.touch()
    (temporary / "delugeserve-quickstart-of-someone").mkdir()
    try:
        sweep()
        assert [region.exists() for region in regions] == [True, False]
        assert [folder.path.exists() for folder in (running, dead)] == [True, False]
        assert (temporary / "delugeserve-quickstart-of-someone").is_dir()
    finally:
        for region in regions:
            region.unlink(missing_ok=True)
