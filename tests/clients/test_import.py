"""The client stands alone: it loads where nothing of torch or of the project can be imported."""

import subprocess
import sys

SCRIPT = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "delugeserve", "delugeserve_export", "onnx"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import delugeserve_client as client
import delugeserve_client.benchmark, delugeserve_client.report

assert list(client.__all__) == sorted(client.__all__)
assert all(hasattr(client, name) for name in client.__all__)
# A gRPC user loads neither the HTTP half, with gevent in it, nor matplotlib.
print(sorted({"gevent", "matplotlib", "typing_extensions"} & set(sys.modules)))
"""


def test_imports_neither_torch_nor_the_project():
    run = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"
