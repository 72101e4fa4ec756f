"""Checks of the server."""

import os
import subprocess
import sys
from pathlib import Path

from delugeserve.doctor import server
from delugeserve.doctor.faults import FAULTS, known_faults
from delugeserve.serving import private_folder
from delugeserve.serving.private_folder import FOLDER_PREFIX
from delugeserve.serving.triton import installation


def test_the_installed_server():
    found = {finding.subject: finding for finding in server.check_server()}
    assert found["Triton"].status == "ok"
    assert found["Triton"].text.startswith("2.51.0, /")
    assert "libpython" in found["requirements"].text
    assert "onnxruntime" in found["backends"].text
    assert found["Envoy"].status == "ok"
    assert [fault.subject for fault in FAULTS] == list(found)[-len(FAULTS) :]
    assert found["malformed HTTP"].status == "ok"
    assert "--no-http" in found["malformed HTTP"].text
    assert "tensorrt" not in found["backends"].text, "there is no GPU"


def test_no_envoy(monkeypatch):
    monkeypatch.setattr("delugeserve.serving.front.installation.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nowhere")
    found = server._front()
    assert found.status == "absent"
    assert "delugeserve[server]" in found.remedy


def test_no_server(monkeypatch):
    monkeypatch.setattr(installation, "_wheel_folder", lambda: None)
    monkeypatch.setenv("PATH", "/nowhere")
    (finding,) = server.check_server()
    assert (finding.status, finding.subject) == ("absent", "Triton")
    assert "delugeserve[server]" in finding.remedy


def test_a_server_that_cannot_run_here(monkeypatch):
    monkeypatch.setattr(installation, "_wheel_folder", lambda: Path("/wheel"))
    monkeypatch.setattr(server, "is_wheel_installed", lambda: True)
    monkeypatch.setattr("platform.libc_ver", lambda: ("glibc", "2.31"))
    (finding,) = server.check_server()
    assert finding.status == "problem"
    assert "glibc 2.31" in finding.text
    assert "--tritonserver" in finding.remedy


def test_a_server_without_known_faults():
    assert known_faults("2.51.0") == list(FAULTS)
    assert known_faults("2.60.0") == []
    (finding,) = server._faults(None)
    assert finding.status == "absent"


def test_temporary_files(monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert server._temporary_folder().text == f"in {tmp_path}"
    monkeypatch.setattr(private_folder, "FALLBACK_FOLDERS", (str(tmp_path),))
    monkeypatch.setattr("tempfile.tempdir", "/no where")
    found = server._temporary_folder()
    assert (found.status, found.remedy) == ("ok", None)
    assert found.text == f"in {tmp_path}, because /no where has a space or a colon in its path"
    monkeypatch.setattr(private_folder, "FALLBACK_FOLDERS", ())
    found = server._temporary_folder()
    assert found.status == "problem"
    assert "TMPDIR" in found.remedy


def test_shared_memory_that_cannot_be_written(monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, mode: place != server.SHARED_MEMORY)
    found = server._shared_memory()
    assert found.status == "problem"
    assert "remount,rw" in found.remedy


def test_little_shared_memory(monkeypatch):
    status = os.statvfs_result((4096, 4096, 256, 256, 256, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda place: status)
    finding = server._shared_memory()
    assert finding.status == "warning"
    assert "--shm-size" in finding.remedy
    monkeypatch.undo()
    monkeypatch.setattr(server, "SHARED_MEMORY", "/nowhere")
    assert server._shared_memory().status == "problem"


def test_leftovers_of_dead_servers(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "SHARED_MEMORY", str(tmp_path))
    assert server._leftovers().status == "ok"
    region = tmp_path / f"{FOLDER_PREFIX}test"
    region.write_bytes(bytes(4096))
    holder = [sys.executable, "-c", HOLD, region]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"mapped\n"
        assert server._leftovers().status == "ok"
        process.stdin.close()
    finding = server._leftovers()
    assert finding.status == "warning"
    assert finding.remedy.endswith(f"rm {region}")


HOLD = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    region = mmap.mmap(file.fileno(), 0)
    print("mapped", flush=True)
    sys.stdin.read()
"""
