"""Whether a server remembers answers, by the method of MLPerf's audit TEST04."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from delugeserve.load.result import LoadResult
from delugeserve.load.run import run
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders import OpenSender, open_sender
from delugeserve.load.target import Target
from delugeserve.system.progress import NO_PROGRESS, Progress

_SUSPICIOUS = 1.1  # MLPerf's limit

_BY_THROUGHPUT = (Scenario.CLOSED_LOOP, Scenario.OFFLINE)


@dataclass(frozen=True)
class CacheAudit:
    """A test with an image that is new in every request, and one with the same image in all.

    Attributes:
        different: the test with new images; its answers are not checked.
        same: the test with one image.
    """

    different: LoadResult
    same: LoadResult

    @property
    def speed_up(self) -> float:
        """How many times faster the server answers the same image: throughput, or the median."""
        if self.same.scenario in _BY_THROUGHPUT:
            return self.same.images_per_s / self.different.images_per_s
        return self.different.percentiles_ms["50"] / self.same.percentiles_ms["50"]

    @property
    def suspicious(self) -> bool:
        """Whether the server seems to remember answers."""
        return self.speed_up > _SUSPICIOUS

    def as_json(self) -> dict[str, Any]:
        """Return the audit for JSON."""
        return {
            "speed_up": self.speed_up,
            "suspicious": self.suspicious,
            "different": self.different.as_json(),
            "same": self.same.as_json(),
        }


def audit_cache(
    target: Target,
    settings: Settings,
    *,
    sender: OpenSender = open_sender,
    progress: Progress = NO_PROGRESS,
) -> CacheAudit:
    """Run a test in which every image is new, and one with a single image.

    Instead of the server scenario, the single-stream one is run: near the highest rate, the latency
    of two tests of one server differs by more than a cache would change it. A suspicion is checked
    once more.

    Args:
        target: what to send. The images of an ordinary test repeat, so that a cache knows them.
        settings: how requests arrive.
        sender: opens what sends the requests.
        progress: receives the seconds of the tests as steps.
    """
    if settings.scenario is Scenario.SERVER:
        settings = replace(settings, scenario=Scenario.SINGLE_STREAM)
    new = replace(target, unique=True, expected=None)
    same = replace(settings, same_sample=True)

    def compare() -> CacheAudit:
        return CacheAudit(
            run(new, settings, sender=sender, progress=progress),
            run(target, same, sender=sender, progress=progress),
        )

    audit = compare()
    if audit.suspicious:
        audit = min(audit, compare(), key=lambda one: one.speed_up)
    return audit
