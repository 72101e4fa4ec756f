"""TensorRT plans: whether they are whole, and whether 'serve' would load them here."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from delugeserve.artifacts.plans import read_plan
from delugeserve.artifacts.repository import StoredModel
from delugeserve.artifacts.versions import Version
from delugeserve.doctor.findings import Finding, Status
from delugeserve.errors import DelugeServeError, MissingDeviceError, UsageError
from delugeserve.runtimes.plans import require_loadable


def examine_plan(
    version: Version, stored: StoredModel, native: Collection[str]
) -> Iterator[Finding]:
    """Examine a version's plans, if it has any.

    Args:
        version: the version that is served.
        stored: its model, as the server finds it.
        native: backends that the server has of its own.
    """
    for file in version.files:
        if file.state != "missing" and file.name.endswith(".plan"):
            try:
                read_plan(version.folder / file.name)
            except UsageError as error:
                yield _finding(version, "problem", error)
    try:
        require_loadable(stored, native=stored.backend in native)
    except MissingDeviceError as error:
        yield _finding(version, "absent", error)
    except DelugeServeError as error:
        yield _finding(version, "problem", error)


def _finding(version: Version, status: Status, error: DelugeServeError) -> Finding:
    return Finding("repository", version.model, status, error.problem, error.remedy)
