"""The commands in error messages."""

from __future__ import annotations

from pathlib import Path

from delugeserve.artifacts.records import Origin
from delugeserve.artifacts.remedies import export_command, serve_another
from delugeserve.artifacts.repository import repository_option
from delugeserve.system.files import sha256
from delugeserve.zoo import find_model


def test_the_default_repository_needs_no_option(monkeypatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert repository_option(Path("model_repository")) == ""
    assert repository_option(tmp_path / "model_repository") == ""
    assert repository_option(Path("other")) == " --repository other"
    assert repository_option(Path("/srv/my models")) == " --repository '/srv/my models'"


def test_the_same_model_again_or_for_another_backend(tmp_path: Path, make_manifest):
    folder = tmp_path / "net"
    manifest = make_manifest(backend="tensorrt_rtx", precision="int8", max_batch_size=16)
    where = f"--max-batch-size 16 --repository {tmp_path}"
    start = "delugeserve export --checkpoint net.safetensors --name net --backend"
    assert export_command(folder, manifest) == f"{start} tensorrt-rtx --precision int8 {where}"
    assert export_command(folder, manifest, "openvino") == f"{start} openvino {where}"
    untrained = make_manifest(trained=False, checkpoint=Origin(seed=0))
    again = export_command(folder, untrained)
    assert "export --model delugenet38 --name net --backend" in again
    assert export_command(tmp_path / "delugenet38", None) == (
        f"delugeserve export --model delugenet38 --repository {tmp_path}"
    )
    # Neither the network nor its checkpoint is known.
    assert "export --checkpoint RUN --name net " in export_command(folder, None)


def test_the_shipped_weights_need_no_file(tmp_path: Path, make_manifest):
    weights = find_model("delugenet38").weights
    manifest = make_manifest(checkpoint=Origin("renamed.safetensors", sha256(weights)))
    assert "export --model delugenet38 -" in export_command(tmp_path / "delugenet38", manifest)
    again = export_command(tmp_path / "flowers", manifest)
    assert "export --model delugenet38 --name flowers " in again


def test_a_version_that_cannot_be_served_has_one_before_it_or_none(tmp_path: Path, make_manifest):
    folder = tmp_path / "net"
    (folder / "2").mkdir(parents=True)
    (folder / "3").mkdir()
    back = f"Serve the version before it with: delugeserve rollback net --repository {tmp_path}"
    assert serve_another(folder, 3, make_manifest()) == back
    assert serve_another(folder, 2, make_manifest()).startswith("Export it again with: delugeserve")
    (folder / ".served.json").write_text('{"before": [3, 1]}')
    assert serve_another(folder, 2, make_manifest()) == back
    assert "export" in serve_another(folder, 3, make_manifest())  # 1 has been deleted
