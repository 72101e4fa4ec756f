"""``classify`` and ``benchmark`` where no server is needed to find what is wrong."""

import json
import os
import socket

import pytest
from PIL import Image

from delugeserve.cli.render.classification import describe_skipped
from delugeserve_client.errors import ServerTimeout, ServerUnavailable
from delugeserve_client.folders import FolderContents, find_images
from delugeserve_client.formats import SUFFIXES

NOWHERE = "127.0.0.1:1"


@pytest.mark.parametrize("command", [("classify", "cat.jpg"), ("benchmark",)])
def test_no_server(error, command):
    found = error(*command, "--url", NOWHERE)
    assert type(found) is ServerUnavailable
    assert found.url == NOWHERE
    assert "delugeserve serve" in found.remedy


@pytest.mark.parametrize(
    "options",
    [
        ("--concurrency", "0"),
        ("--concurrency", "1,,2"),
        ("--concurrency", "-1"),
        ("--concurrency", "4:1"),
        ("--batch-size", "many"),
        ("--batch-size", "1:16:0"),
        ("--duration", "0"),
        ("--warmup", "-1"),
        ("--protocol", "carrier-pigeon"),
        ("--csv", "/no/such/folder/figures.csv"),
        ("--plot", "/"),
        ("--plot", "figures.gif"),
        ("--url", "ftp://localhost"),
        ("--scenario", "servr"),
        ("--scenario", "server"),
        ("--scenario", "offline", "--latency-budget", "50ms"),
        ("--scenario", "closed-loop", "--rate", "10"),
        ("--latency-budget", "soon"),
        ("--latency-budget", "0ms"),
        ("--rate", "0"),
        ("--percentile", "100"),
        ("--repeats", "0"),
        ("--html", "report.pdf"),
        ("--scenario", "offline", "--output", __file__),
        # options that would have no effect
        ("--scenario", "server", "--rate", "9", "--concurrency", "4"),
        ("--scenario", "single-stream", "--streams", "4"),
        ("--scenario", "multi-stream", "--batch-size", "4"),
        ("--latency-budget", "50ms", "--repeats", "3"),
        ("--latency-budget", "50ms", "--rate", "9", "--precision", "0.1"),
        ("--precision", "0.1"),
        ("--output", "logs"),
        ("--duration", "1", "-p", "2000"),
        ("--csv", "a.csv", "-f", "b.csv"),
        ("--repository", "."),
        ("--waterfall", "--url", NOWHERE),
        ("--waterfall", "--csv", "figures.csv"),
        ("--waterfall", "-f", "figures.csv"),
        ("--waterfall", "--plot", "figures.png"),
        ("--waterfall", "--output", "logs"),
        ("--waterfall", "--repeats", "2"),
        ("--waterfall", "--audit"),
        ("--waterfall", "--latency-budget", "50ms"),
    ],
)
def test_benchmark_refuses_options_before_it_measures(run, options):
    elsewhere = {"--url", "--waterfall"} & set(options)
    status, out, err = run("benchmark", *options, *(() if elsewhere else ("--url", NOWHERE)))
    assert (status, out) == (2, "")
    assert NOWHERE not in err  # it did not get as far as the server
    if "--waterfall" in options:
        assert f"{options[1]} has no effect with --waterfall" in err


@pytest.mark.slow
@pytest.mark.parametrize("command", [("classify", "cat.jpg"), ("benchmark",)])
def test_a_server_that_hangs(error, command):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # connections succeed, and nothing ever answers
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        found = error(*command, "--url", url, "--timeout", "0.3")
    assert isinstance(found, ServerTimeout)
    assert found.timeout == 0.3
    assert "--timeout" in found.remedy


def test_names_between_colons_are_not_emojis(run):
    _, _, err = run("benchmark", "--batch-size", ":end:")
    assert "--batch-size ':end:'" in err
    assert "\N{END WITH LEFTWARDS ARROW ABOVE}" not in run("benchmark", "--help")[1]


def test_classify_needs_at_least_one_class(run):
    status, _, err = run("classify", "cat.jpg", "--top-k", "0")
    assert status == 2
    assert "--top-k" in err


def test_a_folder_without_images(run, tmp_path):
    (tmp_path / "notes.txt").touch()
    (tmp_path / "scan.XCF").touch()
    (tmp_path / ".hidden").touch()
    status, out, err = run("classify", tmp_path, "--url", NOWHERE)
    assert (status, out) == (2, "")
    assert f"no images in {tmp_path}" in err
    assert all(suffix in err for suffix in SUFFIXES)
    assert "1 .txt, 1 .xcf, 1 hidden" in err
    assert "No server answers" not in err  # there is nothing to ask it


def test_two_bad_folders_are_two_errors(run, tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    status, out, err = run("classify", *folders, "--json")
    assert status == 2
    assert [entry["source"] for entry in json.loads(out)] == [str(folder) for folder in folders]
    assert all(entry.keys() == {"source", "error"} for entry in json.loads(out))
    assert err.count("error:") == 2


def test_a_folder_that_cannot_be_read(run, tmp_path, monkeypatch):
    scan = os.scandir

    def refuse(folder):
        if str(folder) == str(tmp_path):
            raise PermissionError(13, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    status, _, err = run("classify", tmp_path)
    assert status == 2
    assert f"{tmp_path} cannot be read: permission denied" in err


def test_what_was_skipped_is_counted_by_suffix(tmp_path):
    for name in ("a.txt", "b.TXT", "c.pdf", "README", ".x", "ev\x1b[31mil.s\x1b[31mx"):
        (tmp_path / name).touch()
    Image.new("RGB", (2, 2)).save(tmp_path / "cat.png")
    counted = describe_skipped(find_images(tmp_path))
    assert counted == "2 .txt, 1 without a suffix, 1 .pdf, 1 .s\\x1b[31mx, 1 hidden"
    assert describe_skipped(FolderContents()) == ""
