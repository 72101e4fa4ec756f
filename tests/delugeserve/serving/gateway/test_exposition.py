"""Pages of metrics in Prometheus's text format."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from delugeserve.serving.gateway.exposition import read_page, write_page

PAGES = Path(__file__).parent / "pages"  # of Triton 2.51 and Envoy 1.40


def _samples(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.mark.parametrize("name", ["triton.txt", "envoy.txt"])
def test_a_real_page_is_written_as_it_was_read(name):
    text = (PAGES / name).read_text()
    written = write_page(read_page(text))
    assert _samples(written) == _samples(text)
    assert len(_samples(text)) > 15
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert {line.split("{")[0].split(" ")[0] for line in lines} == {
        line.split("{")[0].split(" ")[0] for line in written.splitlines() if line[0] != "#"
    }


def test_pages_of_two_servers_become_one_with_a_label():
    text = (PAGES / "triton.txt").read_text()
    pages = [family for name in "ab" for family in read_page(text, {"replica": name})]
    written = write_page(pages)
    assert written.count("# TYPE nv_inference_count counter") == 1
    assert 'nv_inference_count{model="colour",version="1",replica="a"} 7\n' in written
    assert 'nv_cpu_utilization{replica="b"} 1\n' in written
    assert len(_samples(written)) == 2 * len(_samples(text))


def test_labels_are_escaped():
    (family,) = read_page("m 1\n", {"path": 'a"b\\c\nd'})
    ((_, label),) = _samples(write_page([family]))
    assert label == ("path", 'a"b\\c\nd')


def test_values_with_braces_and_spaces_and_timestamps_are_read():
    text = 'm{a="x} y",b="{",} 2.5e-07 1700000000\nn NaN\no{} +Inf\n'
    written = write_page(read_page(text, {"c": "z"}))
    assert 'm{a="x} y",b="{",c="z"} 2.5e-07\n' in written
    assert 'n{c="z"} NaN\n' in written
    assert 'o{c="z"} +Inf\n' in written


def test_lines_that_are_no_metrics_are_left_out():
    assert read_page("<html>\n# a comment\n\nm{ 1\n9m 1\nm\n") == []


def test_only_wanted_names_are_kept():
    families = read_page("a 1\nb 1\n", keep=lambda name: name == "b")
    assert [family.name for family in families] == ["b"]
