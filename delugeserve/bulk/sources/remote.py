"""Images and shards in object stores and other file systems that fsspec knows."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, BinaryIO

from delugeserve.bulk.items import Item, Shard, Skipped, too_large, unreadable
from delugeserve.bulk.sources.shards import is_shard
from delugeserve.data.formats import is_image_file
from delugeserve.errors import UsageError, reason_of
from delugeserve.system.imports import require
from delugeserve_client.errors import ImageError

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]+)://", re.IGNORECASE)

# The client downloads from web servers itself.
_NOT_HERE = ("http", "https")

_CHECK = "Check the URL, and that your credentials may read it."

# What fsspec takes from the record of a file to tell that it changed, the best first.
_STAMPS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated")


# What to install for a file system. Other names are left to fsspec: a name after "pip install" must
# be the right one.
_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("abfs", "az"), "adlfs"),
    **dict.fromkeys(("sftp", "ssh"), "paramiko"),
    **dict.fromkeys(("github", "webhdfs"), "requests"),
    "hf": "huggingface_hub",
    "oci": "ocifs",
    "oss": "ossfs",
    "smb": "smbprotocol",
    "webdav": "webdav4",
}


def is_remote(text: str) -> bool:
    """Return whether an argument is a URL of a file system that fsspec knows, such as ``s3://``."""
    found = _URL.match(text)
    return found is not None and found["protocol"].lower() not in _NOT_HERE


def has_protocol(text: str) -> bool:
    """Return whether a name is a URL of any kind, and no path."""
    return _URL.match(text) is not None


def read_remote(url: str, skipped: Skipped) -> Iterator[Item]:
    """Yield the images at a URL: one file, a folder with its subfolders, or a glob.

    Args:
        url: such as ``s3://bucket/photos`` or ``memory://shards/*.tar``.
        skipped: counts what is neither image nor shard.

    Raises:
        MissingExtraError: fsspec is not installed.
        UsageError: the package of the file system is not installed, or there is none for it.
    """
    try:
        system, path = _open_system(url)
        if any(character in path for character in "*?["):
            for _, file in sorted(system.glob(path, detail=True).items()):
                if file["type"] == "file":
                    yield from _read_file(system, file, skipped, explicit=False)
        elif system.isdir(path):
            yield from _walk(system, path, skipped)
        else:
            yield from _read_file(system, system.info(path), skipped, explicit=True)
    except UsageError:
        raise
    except FileNotFoundError:
        yield unreadable(url, "there is no such file", _CHECK)
    except Exception as error:  # those of file systems have no common base class
        yield unreadable(url, reason_of(error), _CHECK)


def load_url(url: str) -> bytes:
    """Return the content of a file.

    Raises:
        ImageError: it cannot be read.
    """
    try:
        system, path = _open_system(url)
        content: bytes = system.cat_file(path)
    except UsageError as error:
        raise ImageError(error.problem, error.remedy, source=url) from error
    except Exception as error:  # those of file systems have no common base class
        raise ImageError(
            f"{url} cannot be read: {reason_of(error).rstrip('.')}.", _CHECK, source=url
        ) from error
    return content


def open_url(url: str) -> BinaryIO:
    """Open a file for reading.

    Raises:
        UsageError: the package of the file system is not installed.
        Exception: whatever the file system raises.
    """
    system, path = _open_system(url)
    file: BinaryIO = system.open(path, "rb")
    return file


def _open_system(url: str) -> tuple[Any, str]:
    fsspec = require("fsspec", "bulk")
    protocol = _URL.match(url)["protocol"].lower()  # type: ignore[index]
    try:
        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _PACKAGES.get(protocol)
        needs = f"the package '{package}'" if package else "a package"
        raise UsageError(
            f"{protocol}:// needs {needs} that is not installed: {reason_of(error).rstrip('.')}.",
            f"Install it with: pip install {package}"
            if package
            else "Install what fsspec's documentation names for it.",
        ) from error
    except ValueError as error:
        raise UsageError(
            f"{url} cannot be opened: {reason_of(error).rstrip('.')}.",
            "Use a protocol that fsspec knows, such as s3:// or gs://.",
        ) from error
    return system, path


def _walk(system: Any, folder: str, skipped: Skipped) -> Iterator[Item]:
    try:
        found = sorted(system.ls(folder, detail=True), key=lambda entry: str(entry["name"]))
    except Exception as error:
        url = str(system.unstrip_protocol(folder))
        yield unreadable(url, reason_of(error), _CHECK, subject=f"The folder {url}")
        return
    for entry in found:
        name = _basename(entry)
        if entry["name"].rstrip("/") == folder.rstrip("/"):
            continue  # some stores list the folder itself
        if name.startswith("."):
            skipped.hidden += 1
        elif entry["type"] == "directory":
            yield from _walk(system, entry["name"], skipped)
        else:
            yield from _read_file(system, entry, skipped, explicit=False)


def _read_file(
    system: Any, file: dict[str, Any], skipped: Skipped, *, explicit: bool
) -> Iterator[Item]:
    source = str(system.unstrip_protocol(file["name"]))
    name = _basename(file)
    if is_shard(name):
        stamp = next((str(file[key]) for key in _STAMPS if file.get(key)), "")
        yield Item(source, shard=Shard(source, f"{file.get('size')} bytes, {stamp}", explicit))
    elif explicit or is_image_file(name):
        refused = too_large(source, int(file.get("size") or 0))
        yield refused or Item(source, load=partial(load_url, source))
    else:
        skipped.others[os.path.splitext(name)[1].lower()] += 1  # noqa: PTH122


def _basename(file: dict[str, Any]) -> str:
    return str(file["name"]).rstrip("/").rpartition("/")[2]
