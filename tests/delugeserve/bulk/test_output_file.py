"""An output that is interrupted has, in the end, the bytes of one that is not."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stub_labeller import MODEL, StubLabeller

from delugeserve.bulk import labelling, row_log
from delugeserve.bulk.items import Item, Shard
from delugeserve.bulk.job import Counts
from delugeserve.bulk.journal import Journal, Request, folder_of
from delugeserve.bulk.labelling import ModelIdentity
from delugeserve.bulk.output_file import open_output
from delugeserve.bulk.outputs import FILE_FORMATS
from delugeserve.errors import (
    BusyOutputError,
    OtherInputError,
    OutputExistsError,
    ResumeError,
    UsageError,
)
from delugeserve_client import ServerUnavailable

HELPERS = Path(__file__).parents[2] / "helpers"
NAMES = [f"{number:03d}{'bad' * (number % 9 == 0)}.png" for number in range(300)]


def request(format_="jsonl", **changes):
    values = {
        "arguments": ("photos",),
        "format": format_,
        "top_k": 2,
        "threshold": None,
        "max_pixels": None,
        "decode": "client",
        "engine": "local",
        "model": MODEL,
    }
    return Request(**values | changes)


def label(path, asked=None, names=NAMES, labeller=None, *, resume=False, overwrite=False):
    """Run once; return the counts."""
    asked = asked or request(path.suffix[1:])
    counts = Counts()
    with open_output(path, asked.format, resume=resume, overwrite=overwrite) as output:
        if not output.complete:
            listed = names() if callable(names) else map(Item, names)
            output.label(asked, listed, labeller or StubLabeller(), counts)
    return counts


def interrupt(path, after, asked=None, **more):
    """Run until the server stops."""
    resumes = folder_of(path).exists()
    with pytest.raises(ServerUnavailable):
        label(path, asked, labeller=StubLabeller(after), resume=resumes, **more)


@pytest.mark.parametrize("format_", FILE_FORMATS)
def test_a_run_that_is_interrupted_again_and_again(tmp_path, format_, monkeypatch):
    monkeypatch.setattr(labelling, "BLOCK", 16)
    whole, parts = tmp_path / f"whole.{format_}", tmp_path / f"parts.{format_}"
    counts = label(whole)
    assert (counts.images, counts.refused, counts.resumed) == (300, 34, 0)
    assert not folder_of(whole).exists()
    for after in (1, 38, 105):  # of which some are asked again
        interrupt(parts, after)
        assert folder_of(parts).exists()
    last = StubLabeller()
    counts = label(parts, labeller=last, resume=True)
    assert parts.read_bytes() == whole.read_bytes()
    assert (counts.images, counts.refused, counts.resumed) == (300, 34, 137)
    # It begins with the block that was not complete, and asks nothing before it again.
    assert last.asked == NAMES[137 // 16 * 16 :]
    assert not folder_of(parts).exists()


def test_what_was_answered_is_there_when_the_server_stops(tmp_path):
    path = tmp_path / "a.jsonl"
    interrupt(path, 290)
    assert len(path.read_bytes().splitlines()) == 290


def test_what_is_answered_is_written_while_the_next_answer_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(row_log, "FLUSH_S", 0.01)
    path = tmp_path / "a.jsonl"
    seen = []

    class Waiting(StubLabeller):
        def label(self, items, top_k):
            for number, row in enumerate(super().label(items, top_k)):
                yield row
                while number == 2 and path.read_bytes().count(b"\n") < 3:
                    time.sleep(0.005)
                seen.append(number)

    label(path, labeller=Waiting())
    assert len(seen) == 300


def test_a_server_that_answers_nothing_leaves_nothing_behind(tmp_path):
    interrupt(tmp_path / "a.csv", 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("torn", [b"", b'{"source": "0', b"\0" * 1_000_000, b"\xff\n\xc3"])
def test_torn_ends_are_cut_off(tmp_path, torn):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    label(whole)
    interrupt(path, 100)
    with path.open("ab") as file:
        file.write(torn)
    with (folder_of(path) / Journal.NAME).open("ab") as file:
        file.write(torn)
    label(path, resume=True)
    assert path.read_bytes() == whole.read_bytes()


def test_a_checkpoint_whose_rows_are_lost_does_not_count(tmp_path):
    """The disk kept the journal, and lost the end of the rows."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    label(whole)
    interrupt(path, 100)
    interrupt(path, 150)
    os.truncate(path, path.stat().st_size - 1000)
    assert label(path, resume=True).resumed == 100
    assert path.read_bytes() == whole.read_bytes()


def test_a_journal_is_cut_off_where_it_is_damaged(tmp_path):
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    label(whole)
    interrupt(path, 100)
    with (folder_of(path) / Journal.NAME).open("ab") as file:
        file.write(b"damaged\n")
    interrupt(path, 150)
    assert label(path, resume=True).resumed == 150  # and not 100 once more
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("first", [b"", b"damaged\n", b"[]\n", b'{"journal": 2}\n'])
@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
def test_a_journal_that_cannot_be_read_is_no_complete_output(tmp_path, first, format_):
    path = tmp_path / f"a.{format_}"
    interrupt(path, 100)
    journal = folder_of(path) / Journal.NAME
    journal.write_bytes(first + journal.read_bytes().partition(b"\n")[2] * bool(first))
    before = {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}
    for resume in (True, False):
        with pytest.raises(OtherInputError) as caught:
            label(path, resume=resume)
        assert caught.value.kind == "journal"
    assert before == {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}
    assert label(path, overwrite=True).resumed == 0


def test_an_output_that_was_edited_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    interrupt(path, 100)
    before = path.read_bytes()
    path.write_bytes(before.replace(b"001.png", b"xyz.png"))
    with pytest.raises(OtherInputError) as caught:
        label(path, resume=True)
    assert caught.value.kind == "output"


@pytest.mark.parametrize(
    ("changed", "was", "now"),
    [({"top_k": 1}, 2, 1), ({"threshold": 0.5}, None, 0.5), ({"engine": "ray"}, "local", "ray")],
)
def test_other_options_are_refused(tmp_path, changed, was, now):
    path = tmp_path / "a.jsonl"
    interrupt(path, 100)
    before = path.read_bytes()
    with pytest.raises(ResumeError) as caught:
        label(path, request(**changed), resume=True)
    assert caught.value.changed == dict.fromkeys(changed, (was, now))
    assert path.read_bytes() == before
    label(path, resume=True)  # it can still be resumed


@pytest.mark.parametrize(
    "model", [ModelIdentity("net", "4", MODEL.digest), ModelIdentity("net", "3", "f" * 16)]
)
def test_another_model_is_refused(tmp_path, model):
    path = tmp_path / "a.jsonl"
    interrupt(path, 100)
    with pytest.raises(OtherInputError) as caught:
        label(path, request(model=model), resume=True)
    assert (caught.value.kind, caught.value.now) == ("model", str(model))


def test_a_digest_that_is_not_known_any_more_fits(tmp_path):
    """A server does not tell digests while it serves several versions."""
    whole, path = tmp_path / "whole.jsonl", tmp_path / "a.jsonl"
    label(whole)
    interrupt(path, 100)
    unknown = request(model=ModelIdentity(MODEL.name, MODEL.version, None))
    assert label(path, unknown, resume=True).images == 300
    assert path.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("format_", FILE_FORMATS)
def test_other_pictures_are_refused_and_the_first_is_named(tmp_path, format_):
    path = tmp_path / f"a.{format_}"
    interrupt(path, 100)
    for names, now in (
        ([*NAMES[:50], "new.png", *NAMES[50:]], "new.png"),
        (NAMES[:50] + NAMES[51:], NAMES[51]),
        (NAMES[:50], ""),
    ):
        with pytest.raises(OtherInputError) as caught:
            label(path, names=names, resume=True)
        found = caught.value
        assert (found.kind, found.before, found.now) == ("source", NAMES[50], now)
    more = [*NAMES, "later.png"]  # what is not labelled yet may change
    assert label(path, names=more, resume=True).images == 301


def test_a_shard_that_changed_is_refused(tmp_path):
    def listed(stamp):
        return lambda: (Item(name, name, shard=Shard("s.tar", stamp)) for name in NAMES)

    path = tmp_path / "a.jsonl"
    interrupt(path, 100, names=listed("1"))
    with pytest.raises(OtherInputError) as caught:
        label(path, names=listed("2"), resume=True)
    found = caught.value
    assert (found.kind, found.before, found.now) == ("shard", "1", "2")
    assert label(path, names=listed("1"), resume=True).images == 300


def test_an_output_is_not_replaced_unless_that_is_asked_for(tmp_path):
    path = tmp_path / "a.csv"
    label(path)
    with pytest.raises(OutputExistsError) as caught:
        label(path)
    assert caught.value.rows is None
    last = StubLabeller()
    label(path, labeller=last, resume=True)  # it is complete
    assert last.asked == []
    label(path, labeller=last, overwrite=True)
    assert last.asked == NAMES
    path.unlink()
    interrupt(path, 100)
    with pytest.raises(OutputExistsError) as caught:
        label(path)
    assert caught.value.rows == 100
    assert label(path, overwrite=True).resumed == 0


def test_an_output_stays_until_rows_can_replace_it(tmp_path):
    path = tmp_path / "a.csv"
    label(path)
    before = path.read_bytes()
    with open_output(path, "csv", overwrite=True) as output:
        assert not output.complete  # and here the server cannot be reached
    assert path.read_bytes() == before
    with pytest.raises(UsageError), open_output(Path("/dev/null"), "csv", overwrite=True):
        pass
    assert Path("/dev/null").exists()


def test_two_runs_of_one_output(tmp_path):
    path = tmp_path / "a.jsonl"
    program = (
        "import sys\nfrom pathlib import Path\n"
        "from delugeserve.bulk.journal import output_lock\n"
        "with output_lock(Path(sys.argv[1])):\n    print('locked', flush=True)\n    input()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(BusyOutputError):
            label(path)
        other.kill()
    assert label(path).images == 300  # the lock of a killed process is free


@pytest.mark.parametrize("format_", FILE_FORMATS)
@pytest.mark.parametrize("moment", ["journal gone", "output there"])
def test_a_run_that_is_killed_at_its_very_end(tmp_path, format_, moment, monkeypatch):
    whole, path = tmp_path / f"whole.{format_}", tmp_path / f"a.{format_}"
    label(whole)

    swept = []

    def die(folder):
        swept.append(folder)
        if len(swept) == 1:  # what opens an output sweeps first
            return
        if moment == "journal gone":
            (folder / Journal.NAME).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("delugeserve.bulk.output_file.remove", die)
        with pytest.raises(KeyboardInterrupt):
            label(path)
    assert path.read_bytes() == whole.read_bytes()
    last = StubLabeller()
    label(path, labeller=last, resume=True)
    assert last.asked == []
    assert path.read_bytes() == whole.read_bytes()
    assert not folder_of(path).exists()


def test_a_full_disk_leaves_what_can_be_resumed(tmp_path):
    """A limit on the size of files stands for the disk's."""
    program = f"""
import resource, signal, sys
sys.path[:0] = [{str(HELPERS)!r}, {str(Path(__file__).parent)!r}]
from test_output_file import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    label(Path(sys.argv[1]), resume=True)
except OSError as error:
    sys.exit(error.errno)
"""
    whole, path = tmp_path / "whole.csv", tmp_path / "a.csv"
    label(whole)

    def run(limit):
        return subprocess.run([sys.executable, "-c", program, path, str(limit)]).returncode

    assert run(9_000) == errno.EFBIG
    assert run(0) == errno.EFBIG
    assert run(1 << 20) == 0
    assert path.read_bytes() == whole.read_bytes()


KILLED = """
import sys
sys.path[:0] = [{helpers!r}, {here!r}]
from test_output_file import *
row_log.FLUSH_S, row_log.CHECKPOINT_S, row_log.ROWS_AT_ONCE = 0.002, 0.004, 16
FILE_FORMATS[sys.argv[1].rpartition(".")[2]](MODEL, 2).header()  # imports its package
print("begun", flush=True)
label(Path(sys.argv[1]), labeller=StubLabeller(wait=0.002), resume=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("format_", FILE_FORMATS)
def test_sigkill_at_random_moments(tmp_path, format_):
    whole, path = tmp_path / f"whole.{format_}", tmp_path / f"a.{format_}"
    label(whole)
    program = KILLED.format(helpers=str(HELPERS), here=str(Path(__file__).parent))
    moments = random.Random(format_)
    journal, seen = folder_of(path) / Journal.NAME, 1  # its first line is no checkpoint
    for _ in range(3):
        with subprocess.Popen(
            [sys.executable, "-c", program, path], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout.readline() == b"begun\n"
            while not journal.exists() or journal.read_bytes().count(b"\n") <= seen:
                assert process.poll() is None
                time.sleep(0.001)
            time.sleep(moments.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
        seen = journal.read_bytes().count(b"\n")
    counts = label(path, resume=True)
    assert counts.resumed  # something was killed, and something kept
    assert path.read_bytes() == whole.read_bytes()


def test_the_journal_is_plain_lines(tmp_path):
    path = tmp_path / "caf\udce9.jsonl"
    interrupt(path, 10, request(arguments=("caf\udce9",)))
    first, *_, last = (folder_of(path) / Journal.NAME).read_text().splitlines()
    assert json.loads(first)["request"]["model"]["digest"] == MODEL.digest
    assert json.loads(last)["rows"] == 10
    assert label(path, request(arguments=("caf\udce9",)), resume=True).images == 300
