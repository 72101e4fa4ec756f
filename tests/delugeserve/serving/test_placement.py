"""Servers are spread over GPUs, or over the cores of sockets."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from delugeserve.errors import UsageError
from delugeserve.serving import placement
from delugeserve.serving.placement import EVERYWHERE, Placement, find_placements


@pytest.fixture
def gpus(monkeypatch):
    def install(*indices):
        found = tuple(SimpleNamespace(index=index) for index in indices)
        monkeypatch.setattr(placement, "usable_gpus", lambda: found)

    return install


@pytest.fixture
def sockets(monkeypatch, tmp_path):
    def install(**socket_of_core):
        cores = {int(name.removeprefix("core")): n for name, n in socket_of_core.items()}
        monkeypatch.setattr(placement, "_SOCKET", str(tmp_path / "{core}"))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cores))
        for core, socket in cores.items():
            if socket is not None:
                (tmp_path / str(core)).write_text(f"{socket}\n")

    return install


def test_the_whole_machine_unless_something_is_asked_for():
    assert find_placements(None) == (EVERYWHERE,)


def test_gpus_that_cuda_may_use(gpus):
    gpus(1, 3)
    assert [one.gpu for one in find_placements("gpus")] == ["1", "3"]


def test_the_usable_cores_of_each_socket(sockets):
    sockets(core0=0, core2=1, core3=1)
    assert [one.cores for one in find_placements("sockets")] == [{0}, {2, 3}]


@pytest.mark.parametrize("indices", [(), (0,)])
def test_fewer_than_two_gpus_are_refused(gpus, indices):
    gpus(*indices)
    with pytest.raises(UsageError) as caught:
        find_placements("gpus")
    assert "--spread gpus" in caught.value.remedy


@pytest.mark.parametrize("second", [0, None])
def test_fewer_than_two_sockets_are_refused(sockets, second):
    sockets(core0=0, core1=second)
    with pytest.raises(UsageError):
        find_placements("sockets")


def test_processes_run_on_the_cores_and_this_thread_as_before():
    before = os.sched_getaffinity(0)
    core = min(before)
    with Placement("one core", cores=frozenset({core})).on_cores():
        shown = subprocess.check_output(
            [sys.executable, "-c", "import os; print(os.sched_getaffinity(0))"], text=True
        )
    assert shown.strip() == str({core})
    assert os.sched_getaffinity(0) == before
