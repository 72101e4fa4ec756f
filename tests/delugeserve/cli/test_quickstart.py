"""``quickstart`` without a server; tests/system/test_chain.py runs it as a whole."""

from types import SimpleNamespace

import pytest

from delugeserve.artifacts.records import Check, Verification
from delugeserve.cli.commands import quickstart


@pytest.mark.parametrize("status", ["passed", "built, not run"])
def test_a_plan_that_cannot_run_here_is_replaced(monkeypatch, tmp_path, caplog, status):
    from delugeserve_export import pipeline

    backends = []

    def export(request, progress):
        backends.append(request.backend)
        check = Check("load", False, found="No CUDA driver", required="")
        found = status if request.backend == "auto" else "passed"
        verification = Verification(found, "8 crops", "here", (check,))
        return SimpleNamespace(manifest=SimpleNamespace(verification=verification))

    monkeypatch.setattr(pipeline, "export", export)
    done = quickstart._export(quickstart.find_model("delugenet38"), tmp_path)
    assert done.manifest.verification.status == "passed"
    assert backends == (["auto"] if status == "passed" else ["auto", "onnxruntime"])
    assert ("No CUDA driver" in caplog.text) == (status != "passed")
