"""``delugeserve serve`` under the conditions of deploy/: only /tmp and /dev/shm can be written.

The root is read-only, the models are mounted read-only, the user has no name, no home and no
privileges. A private mount namespace stands in for a container, so it takes root and util-linux.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("onnxruntime", reason="the backends need the extra 'server'")
pytest.importorskip("pytriton.constants", reason="there is no tritonserver (nvidia-pytriton)")

USER = 10001
# Folders of every Linux, used as mount points. Nothing is created outside of the namespace.
MODELS, ASIDE = "/srv", "/mnt"
NAMESPACE = ["unshare", "--mount", "--propagation", "private"]


def unreadable_ancestor(path):
    """The first folder above that the user cannot enter, such as /root; None if there is none."""
    for folder in reversed(path.parents):
        if not folder.stat().st_mode & 1:
            return folder
    return None


@pytest.fixture
def contained(exported, tmp_path):
    """The command that runs another one under the conditions of a container."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "mount"))):
        pytest.skip("needs root, unshare, setpriv and mount")
    if subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "x", MODELS], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    packages = [path for path in map(Path, (sys.prefix, *sys.path)) if path.is_dir()]
    base = Path(os.path.realpath(sys.base_prefix))
    hidden = unreadable_ancestor(base)
    moved = []
    if hidden:  # show the interpreter alone
        moved = [
            f"mount --bind {base} {ASIDE}",
            f"mount -t tmpfs -o mode=755 tmpfs {hidden}",
            f"mkdir -p {base}",
            f"mount --bind {ASIDE} {base}",
        ]
    for path in packages:
        if not path.is_relative_to(base) and (
            unreadable_ancestor(path) or path.is_relative_to("/tmp")
        ):
            pytest.skip(f"other users cannot read {path}")
    script = tmp_path / "contained.sh"
    script.write_text(
        "\n".join(
            [
                "set -e",
                f"mount --bind {exported} {MODELS}",
                f"mount -o remount,bind,ro {MODELS}",
                *moved,
                "mount -t tmpfs -o mode=1777,exec tmpfs /tmp",
                "mount -t tmpfs -o mode=1777 tmpfs /dev/shm",
                "mount -o remount,bind,ro /",
                "cd /",
                f"exec setpriv --reuid={USER} --regid={USER} --clear-groups --no-new-privs "
                '--bounding-set=-all --inh-caps=-all "$@"',
            ]
        )
    )
    return [*NAMESPACE, "bash", str(script)]


def environment():
    """The variables of an image, and where this test run has its packages."""
    return {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if Path(path).is_dir()),
        "HOME": "/tmp",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }


def test_nothing_else_can_be_written(contained):
    script = (
        f"id -u; touch /x {MODELS}/x /var/tmp/x /etc/x 2>&1 | grep -c 'Read-only'; touch /tmp/x"
    )
    result = subprocess.run(
        [*contained, "bash", "-c", script], capture_output=True, text=True, check=False
    )
    assert result.stdout.split()[0] == str(USER)
    assert int(result.stdout.split()[1]) >= 2
    assert result.returncode == 0


def test_it_serves_and_ends(contained, tmp_path):
    arguments = ["serve", "--repository", MODELS, "--json", "--standby", "0"]
    arguments += ["--host", "0.0.0.0", "--insecure", "--metrics-host", "0.0.0.0"]
    for port in ("grpc", "http", "metrics"):
        arguments += [f"--{port}-port", "0"]
    log = tmp_path / "log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*contained, sys.executable, "-m", "delugeserve", *arguments],
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert line, log.read_text()
        ready = json.loads(line)
        assert ready["models"] == ["tiny"]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # An address that what listens on 127.0.0.1 alone does not have.
        http, metrics = (
            ready[name].replace("127.0.0.1", "127.0.0.2") for name in ("http", "metrics")
        )
        with opener.open(f"http://{http}/readyz", timeout=30) as answer:
            assert json.load(answer)["ready"] is True
        with opener.open(metrics, timeout=30) as answer:
            assert b"nv_inference_queue_duration_us" in answer.read()
    finally:
        process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
    assert process.returncode == 0, log.read_text()
