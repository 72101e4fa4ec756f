"""What happened to a fleet: records for the log, the status file and the metrics."""

from __future__ import annotations

import io
import json
import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TextIO, cast

from delugeserve.errors import UsageError
from delugeserve.serving.fleet import backoff
from delugeserve.serving.fleet.events import Event, Lost, Outgrown, PartLost
from delugeserve.serving.fleet.states import Fleet, Phase, State

_log = logging.getLogger(__name__)

_KEPT = 50
_LEVELS = {
    "replica.lost": logging.WARNING,
    "replica.outgrown": logging.WARNING,
    "release.rejected": logging.WARNING,
    "canary.rejected": logging.WARNING,
    "front.lost": logging.WARNING,
    "gateway.lost": logging.WARNING,
    "crash.loop": logging.WARNING,
    "release.pending": logging.INFO,
    "release.served": logging.INFO,
    "canary.routed": logging.INFO,
}


@dataclass(frozen=True)
class Record:
    """One thing that happened.

    Attributes:
        time: UTC, ISO 8601.
        event: its kind, such as ``replica.lost``.
        message: a sentence for people.
        facts: what it is about, such as ``replica`` and ``reason``.
    """

    time: str
    event: str
    message: str
    facts: Mapping[str, Any] = field(default_factory=dict)


class Journal:
    """Logs records and counts them.

    Args:
        path: file that gets every record, and every line of the servers' logs, as a line of JSON;
            None for none.

    Raises:
        UsageError: the file cannot be written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._recent: deque[Record] = deque(maxlen=_KEPT)
        self._lock = threading.Lock()
        self._file: TextIO | None = None
        if path:
            try:
                self._file = path.open("a", encoding="utf-8", buffering=1)
            except OSError as error:
                raise UsageError(
                    f"The log '{path}' cannot be written ({error.strerror}).",
                    "Give the path of a file in an existing, writable folder.",
                ) from None

    @property
    def recent(self) -> tuple[Record, ...]:
        """The last records, the oldest first."""
        return tuple(self._recent)

    def add(self, record: Record) -> None:
        """Log and count a record."""
        self.counters[record.event] += 1
        self._recent.append(record)
        _log.log(
            _LEVELS.get(record.event, logging.DEBUG), record.message, extra={"event": record.event}
        )
        self.write({"time": record.time, "event": record.event, **record.facts})

    def write(self, values: Mapping[str, Any]) -> None:
        """Write a line of JSON to the file, if there is one; a full disk ends the file."""
        with self._lock:
            if self._file:
                try:
                    self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
                except OSError:
                    self._file = None

    def stream(self, source: str) -> TextIO | None:
        """Return an open file for the log of a process; None if no file is kept."""
        return cast(TextIO, _SourceStream(self, source)) if self._file else None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._file:
                self._file.close()
                self._file = None


class _SourceStream(io.TextIOBase):
    """Turns the lines of one process into lines of JSON."""

    def __init__(self, journal: Journal, source: str) -> None:
        self._journal, self._source = journal, source

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self._journal.write({"time": now_text(), "source": self._source, "line": line})
        return len(text)


def now_text() -> str:
    """Return the time, UTC, as ISO 8601 with milliseconds."""
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")


def records(
    before: Fleet, after: Fleet, event: Event, names: Mapping[str, str]
) -> Iterator[Record]:
    """Yield what an event changed.

    Args:
        before: the fleet before the event.
        after: the fleet after it.
        event: what happened.
        names: descriptions of releases by id.
    """
    time = now_text()

    def record(kind: str, message: str, **facts: Any) -> Record:
        return Record(time, kind, message, facts)

    known = {one.number: one for one in before.replicas}
    for replica in after.replicas:
        old = known.pop(replica.number, None)
        if old is not None and old.state is replica.state:
            continue
        facts = {"replica": replica.name, "release": replica.release}
        if isinstance(event, Lost) and event.number == replica.number:
            message = f"{replica.name} is lost: {event.reason}"
            yield record("replica.lost", message, **facts, reason=event.reason)
        elif replica.state is not State.STOPPED:
            message = f"{replica.name} is {replica.state.value}."
            yield record(f"replica.{replica.state.value}", message, **facts)
    for replica in known.values():
        yield record("replica.ended", f"{replica.name} has ended.", replica=replica.name)
    if isinstance(event, Outgrown) and (grown := after.find(event.number)):
        message = f"{grown.name} is replaced: {event.reason}"
        yield record("replica.outgrown", message, replica=grown.name, reason=event.reason)
    for part in after.parts:
        previous = before.part(part.name)
        if isinstance(event, PartLost) and event.name == part.name:
            message = f"The {part.name} is lost: {event.reason}"
            yield record(f"{part.name}.lost", message, reason=event.reason)
        elif previous and part.starts > previous.starts:
            yield record(f"{part.name}.started", f"The {part.name} runs.", starts=part.starts)
    yield from _release_records(before, after, names, record)
    for key in sorted(after.looping - before.looping):
        cause = next(one.reason for one in reversed(after.losses) if one.key == key)
        what = "The servers" if key == after.current else f"The {key}"
        yield record("crash.loop", backoff.describe_loop(after, what, cause), key=key, reason=cause)
    if after.phase is not before.phase:
        ends = after.phase is Phase.STOPPING
        message = "Requests in flight are answered." if ends else "All replicas have ended."
        facts = {"reason": after.fault} if after.fault else {}
        yield record(f"fleet.{after.phase.value}", message, **facts)


def _release_records(
    before: Fleet, after: Fleet, names: Mapping[str, str], record: Any
) -> Iterator[Record]:
    def name(release: str | None) -> str:
        return names.get(release or "", release or "nothing")

    if after.pending and after.pending != before.pending and after.current is not None:
        message = f"Starting {name(after.pending)} beside {name(after.current)}."
        yield record("release.pending", message, release=after.pending)
    if after.current != before.current:
        if before.current is not None:
            message = f"Serving {name(after.current)} instead of {name(before.current)}."
            yield record("release.served", message, release=after.current)
        else:
            yield record("release.first", f"Serving {name(after.current)}.", release=after.current)
    for kind, old, new in (
        ("release", before.rejected, after.rejected),
        ("canary", before.canary_rejected, after.canary_rejected),
    ):
        if new and new != old:
            message = (
                f"{name(new.release)} is not served: {new.reason} {name(after.current)} is still "
                "served."
            )
            yield record(f"{kind}.rejected", message, release=new.release, reason=new.reason)
    if after.routes.share != before.routes.share and after.canary and after.routes.share:
        message = f"{name(after.canary.release)} gets {after.routes.share:.1%} of the requests."
        yield record(
            "canary.routed", message, release=after.canary.release, share=after.routes.share
        )
