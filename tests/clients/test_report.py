import csv
import dataclasses
import sys

import pytest

from delugeserve_client.errors import MissingPackageError
from delugeserve_client.measurement import Samples, ServerStatistics, summarise
from delugeserve_client.report import save_plot, write_csv


def measurement(batch_size=2, concurrency=3):
    samples = Samples([0.001, 0.002, 0.011129999999999999], [], seconds=2.0)
    return summarise("net", batch_size, concurrency, samples, ServerStatistics())


def test_csv(tmp_path):
    write_csv([measurement(), measurement(batch_size=5)], tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["batch_size"] for row in rows] == ["2", "5"]
    assert rows[0]["p50_ms"] == "2.0"
    assert rows[0]["mean_ms"] == "4.71"
    assert list(rows[0]) == [field.name for field in dataclasses.fields(measurement())]
    assert [path.name for path in tmp_path.iterdir()] == ["figures.csv"]


@pytest.mark.parametrize("count", [1, 12])
def test_plot(tmp_path, count):
    pytest.importorskip("matplotlib", reason="plots need the extra 'benchmark'")
    from PIL import Image

    measurements = [measurement(n, c) for n in range(1, count + 1) for c in (1, 4)]
    save_plot(measurements, tmp_path / "plot.png", "a machine")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert image.size == (1200, 750)


def test_a_plot_has_the_format_of_its_suffix(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra 'benchmark'")
    save_plot([measurement()], tmp_path / "plot.svg")
    assert b"<svg" in (tmp_path / "plot.svg").read_bytes()[:1000]


def test_plot_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"delugeserve\[benchmark\]") as caught:
        save_plot([measurement()], tmp_path / "plot.png")
    assert caught.value.module == "matplotlib"
