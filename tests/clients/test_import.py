"""The client stands alone: it loads where nothing of torch or of the project can be imported."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "delugeserve", "delugeserve_export", "onnx"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import delugeserve_client as client

assert list(client.__all__) == sorted(client.__all__)
assert all(hasattr(client, name) for name in client.__all__)
# A gRPC user loads neither the HTTP half, with gevent in it, nor matplotlib.
print(sorted({"gevent", "matplotlib", "opentelemetry", "typing_extensions"} & set(sys.modules)))
"""


def test_imports_neither_torch_nor_the_project():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


WITHOUT = """
import asyncio
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Blocked())
from delugeserve_client import AsyncClassifier, Classifier, ClientError

async def connect():
    await AsyncClassifier("localhost:1").connect()

for action in (lambda: Classifier("localhost:1"), lambda: asyncio.run(connect())):
    try:
        action()
    except ClientError as error:
        print(type(error).__name__, error.module, error)
"""


@pytest.mark.parametrize("missing", ["tritonclient", "grpc"])
def test_without_tritonclient(missing):
    run = subprocess.run([sys.executable, "-c", WITHOUT, missing], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    for line in run.stdout.splitlines():
        assert line.startswith(f"MissingPackageError {missing} ")
        assert "pip install 'tritonclient[grpc,http]'" in line
    assert len(run.stdout.splitlines()) == 2
