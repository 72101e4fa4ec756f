"""Whether a server remembers answers, by the method of MLPerf's audit TEST04."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from delugeserve.load.result import LoadResult
from delugeserve.load.run import run
from delugeserve.load.scenarios import Scenario, Settings
from delugeserve.load.senders.base import OpenSender
from delugeserve.load.target import Target
from delugeserve.system.progress import NO_PROGRESS, Progress

_SUSPICIOUS = 1.1  # MLPerf's limit

_BY_THROUGHPUT = (Scenario.CLOSED_LOOP, Scenario.OFFLINE)


@dataclass(frozen=True)
class CacheAudit:
    """A test with different images against one with the same image again and again.

    Attributes:
        different: the test with different images.
        same: the test with one image.
    """

    different: LoadResult
    same: LoadResult

    @property
    def speed_up(self) -> float:
        """How many times faster the server answers the same image."""
        if self.same.scenario in _BY_THROUGHPUT:
            return self.same.images_per_s / self.different.images_per_s
        return self.different.mean_ms / self.same.mean_ms

    @property
    def suspicious(self) -> bool:
        """Whether the server seems to remember answers."""
        return self.speed_up > _SUSPICIOUS

    def as_json(self) -> dict[str, Any]:
        """Return the audit for JSON."""
        return {
            "speed_up": self.speed_up,
            "suspicious": self.suspicious,
            "same": self.same.as_json(),
        }


def audit_cache(
    target: Target,
    settings: Settings,
    different: LoadResult,
    *,
    sender: OpenSender,
    progress: Progress = NO_PROGRESS,
) -> CacheAudit:
    """Repeat a test with a single image.

    Args:
        target: what the first test sent.
        settings: its settings.
        different: its result.
        sender: opens what sends the requests.
        progress: receives the seconds of the test as steps.
    """
    repeated = replace(settings, same_sample=True)
    return CacheAudit(different, run(target, repeated, sender=sender, progress=progress))
