"""Data sets of the Hugging Face Hub, without a connection to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from delugeserve.data import hub
from delugeserve.data.catalogue import open_source
from delugeserve.errors import DatasetError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
huggingface_hub = pytest.importorskip("huggingface_hub")


def write(path: Path, images: list[bytes], features: dict[str, Any], labels: list[int]) -> None:
    """Write a parquet file as the Hub does, with columns of unusual names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    structs = pa.array(
        [{"bytes": image, "path": None} for image in images],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    table = pa.table({"picture": structs, "species": pa.array(labels, pa.int64())})
    text = json.dumps({"info": {"features": features}})
    pq.write_table(table.replace_schema_metadata({"huggingface": text}), path)


FEATURES = {
    "picture": {"_type": "Image"},
    "species": {"_type": "ClassLabel", "names": ["rose", "tulip"]},
}


@pytest.mark.parametrize("converted", [False, True])
def test_any_data_set_of_the_hub(tmp_path, monkeypatch, encode, pixels, converted):
    asked = []

    def download(**options: Any) -> str:
        asked.append((options["repo_id"], options.get("revision")))
        folder = tmp_path / str(options.get("revision") or "main").replace("/", "_")
        folder.mkdir(exist_ok=True)
        if ("revision" in options) == converted:
            images = [encode(image) for image in pixels[:6]]
            write(folder / "default/train/0000.parquet", images, FEATURES, [0, 1] * 3)
            write(folder / "default/test/0000.parquet", images[:1], FEATURES, [1])
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.chdir(tmp_path)
    catalogue = open_source("someone/flowers")
    assert catalogue.class_names == ("rose", "tulip")
    assert catalogue.splits == ("train", "validation", "test")
    assert catalogue.source == "someone/flowers"
    first = ("someone/flowers", None)
    second = ("someone/flowers", "refs/convert/parquet")
    assert asked == ([first, second] if converted else [first])


def test_a_data_set_without_parquet_files(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **_: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError) as caught:
        open_source("someone/texts")
    assert caught.value.name == "someone/texts"


@pytest.mark.parametrize("name", ["cifar10", "someone/flowers"])
def test_a_failed_download_names_the_proxy(monkeypatch, name):
    def download(**_options: Any) -> str:
        raise OSError("Connection refused")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setenv("https_proxy", "http://me:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost")
    with pytest.raises(DatasetError) as caught:
        hub.download(name)
    assert "Hub through the proxy http://proxy.example:3128 (" in caught.value.problem
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("no_proxy", "huggingface.co")
    with pytest.raises(DatasetError) as caught:
        hub.download(name)
    assert "proxy" not in caught.value.problem


def test_a_misspelt_path_in_a_folder_is_not_looked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "download", lambda *_: pytest.fail("it was downloaded"))
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    with pytest.raises(DatasetError) as caught:
        open_source("data/flowrs")
    assert caught.value.path == "data/flowrs"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("cifar10", True),
        ("owner/name", True),
        ("owner/na.me-1", True),
        ("flowers", False),
        ("./flowers", False),
        ("/flowers", False),
        ("a/b/c", False),
        ("a/", False),
    ],
)
def test_what_can_be_a_name(source, name):
    assert hub.is_name(source) is name
