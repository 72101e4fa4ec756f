"""TensorRT plans: whether the file is intact, and whether 'serve' would load it here."""

from __future__ import annotations

from collections.abc import Iterator

from delugeserve.artifacts.plans import read_plan
from delugeserve.artifacts.repository import StoredModel
from delugeserve.artifacts.versions import Version
from delugeserve.doctor.findings import Finding, Status
from delugeserve.errors import DelugeServeError, MissingDeviceError, UsageError
from delugeserve.runtimes import BACKENDS


def check_plan(version: Version, stored: StoredModel, *, native: bool) -> Iterator[Finding]:
    """Check the plans of a version, if it has any.

    Args:
        version: the version that is served.
        stored: its model, as the server finds it.
        native: the server would load it with a native backend.
    """
    for file in version.files:
        if file.state != "missing" and file.name.endswith(".plan"):
            try:
                read_plan(version.folder / file.name)
            except UsageError as error:
                yield _finding(version, "problem", error)
    record = BACKENDS.get(stored.backend)
    if record is None:
        return
    try:
        record.check_loadable(stored, native=native)
    except MissingDeviceError as error:
        yield _finding(version, "absent", error)
    except DelugeServeError as error:
        yield _finding(version, "problem", error)


def _finding(version: Version, status: Status, error: DelugeServeError) -> Finding:
    return Finding("repository", version.model, status, error.problem, error.remedy)
