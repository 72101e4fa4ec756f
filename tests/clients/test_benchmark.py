import csv
import sys

import numpy as np
import pytest

from delugeserve_client import ClientError
from delugeserve_client.benchmark import Samples, measure, read_statistics, summarise
from delugeserve_client.report import save_plot, write_csv

GRPC = {
    "model_stats": [
        {
            "inference_count": "30",
            "execution_count": "10",
            "inference_stats": {
                "success": {"count": "15", "ns": "9000000"},
                "queue": {"count": "15", "ns": "3000000"},
                "compute_infer": {"count": "15", "ns": "30000000"},
            },
        },
        {"version": "2"},
    ]
}


def measurement(latencies=(0.001, 0.002, 0.003, 0.004), batch_size=2, concurrency=3, errors=0):
    samples = Samples(list(latencies), [ValueError()] * errors, seconds=2.0)
    before = read_statistics({})
    return summarise("net", batch_size, concurrency, samples, before, read_statistics(GRPC))


def test_figures():
    m = measurement(errors=1)
    assert (m.requests, m.errors, m.images_per_s) == (4, 1, 4.0)
    assert m.p50_ms == pytest.approx(2.5)
    assert m.mean_ms == pytest.approx(2.5)
    assert (m.queue_ms, m.compute_infer_ms, m.compute_output_ms) == (0.2, 2.0, 0.0)
    assert m.executed_batch == 3.0


def test_percentiles_are_of_all_samples():
    latencies = np.random.default_rng(0).permutation(np.arange(1001)) / 1e3
    m = measurement(latencies)
    assert (m.p50_ms, m.p90_ms, m.p95_ms, m.p99_ms) == pytest.approx((500, 900, 950, 990))


def test_only_the_difference_of_the_statistics_counts():
    after = read_statistics(GRPC)
    before = {key: value / 2 for key, value in after.items()} | {"inference_count": 0.0}
    m = summarise("net", 1, 1, Samples([0.001], [], 1.0), before, after)
    assert m.queue_ms == pytest.approx(0.2)
    assert m.executed_batch == 6.0
    idle = summarise("net", 1, 1, Samples([0.001], [], 1.0), after, after)
    assert (idle.queue_ms, idle.executed_batch) == (0.0, 0.0)


def test_csv(tmp_path):
    write_csv([measurement(), measurement(batch_size=5)], tmp_path / "figures.csv")
    with (tmp_path / "figures.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["batch_size"] for row in rows] == ["2", "5"]
    assert float(rows[0]["p50_ms"]) == pytest.approx(2.5)
    assert [path.name for path in tmp_path.iterdir()] == ["figures.csv"]


def test_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="plots need the extra 'benchmark'")
    from PIL import Image

    save_plot([measurement(), measurement(concurrency=1)], tmp_path / "plot.png", "a machine")
    with Image.open(tmp_path / "plot.png") as image:
        assert image.format == "PNG"
        assert image.size == (1200, 750)


def test_a_plot_is_what_its_name_says(tmp_path):
    save_plot([measurement()], tmp_path / "plot.svg")
    assert b"<svg" in (tmp_path / "plot.svg").read_bytes()[:1000]


def test_plot_without_matplotlib(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ClientError, match=r"pip install 'delugeserve\[benchmark\]'"):
        save_plot([measurement()], tmp_path / "plot.png")


@pytest.mark.parametrize(
    "arguments",
    [
        {"concurrency": [0]},
        {"concurrency": []},
        {"batch_sizes": [1, -1]},
        {"duration": 0},
        {"warmup": -1},
    ],
)
def test_senseless_numbers(arguments):
    with pytest.raises(ClientError, match="at least 1"):
        measure(**arguments)
