"""Check which of the package's extras are installed, from its metadata."""

from __future__ import annotations

import importlib.metadata
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping

from delugeserve.doctor.findings import Finding
from delugeserve.runtimes import BACKENDS

_PACKAGE = "delugeserve"
_DEVELOPMENT = "dev"


def check_extras() -> Iterator[Finding]:
    """Check the packages of every extra. Nothing is imported."""
    try:
        required = _required()
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "extras",
            _PACKAGE,
            "warning",
            "the package is not installed: it runs from its source folder",
            "Install it with: pip install -e .",
        )
        return
    useless = {one.extra: lacking for one in BACKENDS.values() if (lacking := one.missing_to_run())}
    for extra, packages in required.items():
        missing = [package for package in packages if not _is_installed(package)]
        if missing and extra in useless:
            text = f"not installed: {', '.join(missing)}; it needs {useless[extra]}"
            yield Finding("extras", extra, "absent", text)
        elif missing:
            yield Finding(
                "extras",
                extra,
                "absent",
                f"not installed: {', '.join(missing)}",
                f"Install it with: pip install '{_PACKAGE}[{extra}]'",
            )
        else:
            yield Finding("extras", extra, "ok", ", ".join(packages))


def _required() -> Mapping[str, list[str]]:
    """Return the packages of each extra, without the one for developers."""
    required: dict[str, list[str]] = defaultdict(list)
    for requirement in importlib.metadata.requires(_PACKAGE) or ():
        specifier, _, marker = requirement.partition(";")
        name = re.match(r"[\w.-]+", specifier)
        extra = re.search(r"""extra\s*==\s*['"]([\w.-]+)['"]""", marker)
        # An extra that includes another one requires the package itself.
        if name and extra and extra[1] != _DEVELOPMENT and name[0] != _PACKAGE:
            required[extra[1]].append(name[0])
    return required


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
