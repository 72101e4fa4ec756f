"""API keys: a file with a line for each, of the key's SHA-256 and the client's name.

The keys themselves are not kept. Envoy reads the file again every second, so that a change needs no
restart.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from delugeserve.errors import UnknownNameError, UsageError
from delugeserve.system.files import atomic_write

PREFIX = "ds_"
_SECRET_BYTES = 32
_HEADER = "# API keys of clients: the SHA-256 of each key, and the client's name.\n"
_LINE = re.compile(r"([0-9a-f]{64}) +\*?([A-Za-z0-9_.@-]{1,64})")


@dataclass(frozen=True)
class ApiKey:
    """One key of a client.

    Attributes:
        name: the client's name. A client may have several keys.
        digest: SHA-256 of the key, in hexadecimal.
    """

    name: str
    digest: str


def read_keys(path: Path) -> tuple[ApiKey, ...]:
    """Read a file of API keys.

    Args:
        path: the file: lines as ``sha256sum`` writes them, of digest and name. Empty lines and
            those that start with ``#`` do not count.

    Raises:
        UsageError: it cannot be read, or a line is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UsageError(
            f"There is no file {path} of API keys.",
            f"Make one with: delugeserve keys add NAME --file {shlex.quote(str(path))}",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(
            f"The API keys {path} cannot be read ({reason}).", "Give a file that can be read."
        ) from None
    keys = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.rstrip())
        if not match:
            raise UsageError(
                f"Line {number} of the API keys {path} is not a SHA-256 and a name.",
                "Remove the line, then use: delugeserve keys add NAME --file "
                f"{shlex.quote(str(path))}",
            )
        keys.append(ApiKey(match[2], match[1]))
    return tuple(keys)


def add_key(path: Path, name: str) -> str:
    """Make a key for a client, and add its digest to a file, which is made if there is none.

    Args:
        path: the file.
        name: the client's name.

    Returns:
        The key, which is kept nowhere.

    Raises:
        UsageError: the name is not valid, or the file cannot be read or written.
    """
    key = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    entry = ApiKey(name, hashlib.sha256(key.encode()).hexdigest())
    if not _LINE.fullmatch(f"{entry.digest} {name}"):
        raise UsageError(
            f"'{name}' cannot be the name of a client.",
            "Use 1 to 64 ASCII letters, digits, '_', '.', '@' and '-'.",
        )
    _write(path, [*(read_keys(path) if path.exists() else ()), entry])
    return key


def remove_keys(path: Path, name: str) -> int:
    """Remove all keys of a client from a file; return their number.

    Raises:
        UnknownNameError: the client has none.
        UsageError: the file cannot be read or written.
    """
    keys = read_keys(path)
    kept = [key for key in keys if key.name != name]
    if len(kept) == len(keys):
        raise UnknownNameError("client", name, {key.name for key in keys})
    _write(path, kept)
    return len(keys) - len(kept)


def _write(path: Path, keys: Iterable[ApiKey]) -> None:
    try:
        with atomic_write(path) as beside:
            beside.touch(mode=0o600)
            beside.write_text(
                _HEADER + "".join(f"{key.digest}  {key.name}\n" for key in keys), encoding="utf-8"
            )
            if path.exists():
                beside.chmod(path.stat().st_mode & 0o777)
    except OSError as error:
        raise UsageError(
            f"The API keys {path} cannot be written ({error.strerror}).",
            "Give a file in a folder that you can write to.",
        ) from None
