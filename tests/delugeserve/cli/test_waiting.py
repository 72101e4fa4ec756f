"""``--wait``, with status files but without servers."""

import dataclasses
import threading
import time

import pytest
from server_status import server_status

from delugeserve.artifacts.model_config import read_config
from delugeserve.artifacts.promotion import promote, set_canary
from delugeserve.serving.fleet import settled
from delugeserve.serving.fleet.release import take_wish
from delugeserve.serving.fleet.status import (
    CanaryStatus,
    RejectedStatus,
    ReleaseStatus,
    ReplicaStatus,
    StatusFile,
)

TIME = "2026-01-01T10:00:00.000+00:00"


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(settled, "_INTERVAL", 0.01)


@pytest.fixture
def server(repository):
    """The status file of a server, and a function that returns what it would report now."""

    def status(**facts):
        release = take_wish(repository).release
        served = ReleaseStatus(release.id, release.versions)
        return server_status(repository, pid=1234, release=served, **facts)

    file = StatusFile()
    file.write(status())
    yield file, status
    file.remove()


@pytest.fixture
def follow(server, repository):
    """Let the server report, a moment after the repository has changed, what a function returns."""
    file, status = server
    before = take_wish(repository)
    threads = []

    def follow(then=lambda status: status):
        def run():
            while take_wish(repository) == before:
                time.sleep(0.01)
            file.write(dataclasses.replace(status(), routed=False))
            time.sleep(0.1)
            file.write(then(status()))

        threads.append(threading.Thread(target=run))
        threads[0].start()

    yield follow
    for thread in threads:
        thread.join()


def served(repository):
    (number,) = read_config(repository / "net").versions
    return number


@pytest.mark.parametrize(
    "arguments",
    [
        ("promote", "net", "1"),
        ("promote", "net", "1", "--share", "5%"),
        ("rollback", "net"),
        ("configure", "net", "--instances", "2"),
        ("export", "--model", "delugenet38"),
    ],
)
def test_without_a_server_nothing_is_changed(run, repository, arguments):
    promote(repository, "net", 2)
    before = take_wish(repository)
    status, _out, err = run(*arguments, "--wait", "--repository", repository)
    assert (status, take_wish(repository)) == (2, before)
    assert "No server of" in err
    assert f"delugeserve serve --repository {repository}" in err


def test_it_does_not_go_with_a_dry_run(run, repository, server):
    status, _out, err = run("rollback", "net", "--wait", "--dry-run", "--repository", repository)
    assert status == 2
    assert "--dry-run does not go with --wait" in err


def test_it_returns_when_the_change_is_served(run, repository, follow):
    follow()
    status, out, err = run("promote", "net", "1", "--wait", "--repository", repository)
    assert status == 0
    assert "version 1 is served (before: 3)" in out
    assert "The running server (process 1234) serves it, after" in err
    assert "status --watch" not in err


def test_what_is_served_already_needs_no_waiting(run, repository, server):
    assert run("promote", "net", "3", "--wait", "--repository", repository)[0] == 0


def test_a_server_that_goes_on_without_the_change_is_exit_status_1(run, repository, follow):
    old = take_wish(repository).release

    def reject(status):
        return dataclasses.replace(
            status,
            release=ReleaseStatus(old.id, old.versions),
            rejected=RejectedStatus(status.release, "It answers otherwise."),
        )

    follow(reject)
    status, _out, err = run("promote", "net", "1", "--wait", "--repository", repository)
    assert (status, served(repository)) == (1, 1)
    assert "(process 1234) goes on without the change: It answers otherwise." in err
    assert "kill -HUP 1234" in err


def test_a_server_that_ends_is_exit_status_1(run, repository, follow):
    follow(lambda status: dataclasses.replace(status, state="stopping"))
    status, _out, err = run("promote", "net", "1", "--wait", "--repository", repository)
    assert status == 1
    assert "ended before it served the change" in err


@pytest.fixture
def wait_for(repository, server):
    """Wait while the server reports one status, and then another; whether it was waited for."""
    file, _ = server

    def wait_for(first, then):
        file.write(first)
        written = threading.Event()

        def write():
            written.set()
            file.write(then)

        timer = threading.Timer(0.2, write)
        timer.start()
        assert settled.wait_until_served(repository) == [1234]
        waited = written.is_set()
        timer.join()
        return waited

    return wait_for


def test_another_change_that_is_still_pending_is_waited_for(server, wait_for):
    _, status = server
    assert wait_for(status(pending=ReleaseStatus("other", {"net": 1})), status())


def test_a_canary_is_waited_for_until_it_gets_its_share(repository, server, wait_for):
    _, status = server
    set_canary(repository, "net", 1, 0.05)
    wanted = take_wish(repository).canary
    canary = ReleaseStatus(wanted.id, wanted.versions)
    replica = ReplicaStatus("replica-3", "canary", wanted.id, TIME)
    proving = dataclasses.replace(replica, state="proving")
    done = status(canary=CanaryStatus(canary, 0.05), replicas=(replica,))
    assert wait_for(status(canary=CanaryStatus(canary, 0.5), replicas=(replica,)), done)
    assert wait_for(status(canary=CanaryStatus(canary, 0.05), replicas=(proving,)), done)


def test_the_end_of_a_canary_is_waited_for(server, wait_for):
    _, status = server
    replica = ReplicaStatus("replica-3", "canary", "b", TIME)
    assert wait_for(status(replicas=(replica,)), status())
