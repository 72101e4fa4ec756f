"""``quickstart`` without a server; tests/system/test_chain.py runs it as a whole."""

from types import SimpleNamespace

import pytest

from delugeserve.artifacts.records import Check, Verification
from delugeserve.cli.commands import quickstart
from delugeserve.errors import ParityError
from delugeserve_export import ExportOutcome


@pytest.mark.parametrize("status", ["passed", "built, not run"])
def test_a_plan_that_cannot_run_here_is_replaced(
    monkeypatch, tmp_path, caplog, make_manifest, status
):
    import delugeserve_export

    asked = []

    def plan_export(spec, *, repository, backend="auto"):
        asked.append(backend)
        return SimpleNamespace(spec=spec, backend=backend)

    def export(plan, progress):
        found = status if plan.backend == "auto" else "passed"
        check = Check("runs here", True, found="No CUDA driver", required="")
        verification = Verification(found, "8 crops", "here", (check,))
        return ExportOutcome(make_manifest(verification=verification), tmp_path, {})

    monkeypatch.setattr(delugeserve_export, "plan_export", plan_export)
    monkeypatch.setattr(delugeserve_export, "export", export)
    _, done = quickstart._export(quickstart.find_model("delugenet38"), tmp_path)
    assert done.manifest.verification.status == "passed"
    assert asked == (["auto"] if status == "passed" else ["auto", "onnxruntime"])
    assert ("No CUDA driver" in caplog.text) == (status != "passed")


def test_a_rejected_artefact_ends_it(monkeypatch, tmp_path, make_manifest):
    import delugeserve_export

    check = Check("logits", False, found="error 0.5", required="at most 0.001")
    manifest = make_manifest(verification=Verification("failed", "8 crops", "here", (check,)))
    outcome = ExportOutcome(manifest, None, {}, "Use another --backend.")
    monkeypatch.setattr(delugeserve_export, "plan_export", lambda *_, **__: None)
    monkeypatch.setattr(delugeserve_export, "export", lambda *_: outcome)
    with pytest.raises(ParityError) as caught:
        quickstart._export(quickstart.find_model("delugenet38"), tmp_path)
    assert caught.value.remedy == outcome.remedy
