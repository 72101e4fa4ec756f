"""Data sets that are downloaded by name from the Hugging Face Hub."""

from __future__ import annotations

import re
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from delugeserve.data.splits import SplitName
from delugeserve.errors import DatasetError
from delugeserve.system.imports import require
from delugeserve_client.proxies import without_password

_NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*", re.ASCII)

# The data sets of ``zoo.TASKS`` that can be downloaded without an account.
REPOSITORIES: Mapping[str, str] = MappingProxyType(
    {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
)


_HOST = "huggingface.co"
_CONVERTED = "refs/convert/parquet"


def is_name(source: str) -> bool:
    """Return whether a source can be a data set of the Hub: a known name, or ``owner/name``."""
    return source in REPOSITORIES or bool(_NAME.fullmatch(source))


def download(name: str, split: SplitName | None = None) -> Path:
    """Download the parquet files of a data set, unless they are in the Hub's cache.

    The Hub converts data sets in other formats to parquet files; these are downloaded then.

    Args:
        name: a key of ``REPOSITORIES``, or ``owner/name``.
        split: None for all splits.

    Returns:
        A folder of the Hub's cache, with the files below it.

    Raises:
        DatasetError: the download failed, or the data set has no parquet files.
        MissingExtraError: huggingface-hub is not installed.
    """
    hub = require("huggingface_hub", "train")
    known = name in REPOSITORIES
    patterns = [f"*/{split}-*.parquet"] if split and known else ["*.parquet"]
    options = {"repo_id": REPOSITORIES.get(name, name), "repo_type": "dataset"}
    try:
        folder = Path(hub.snapshot_download(**options, allow_patterns=patterns))
        if not known and not any(folder.rglob("*.parquet")):
            folder = Path(
                hub.snapshot_download(**options, allow_patterns=patterns, revision=_CONVERTED)
            )
    # Errors of huggingface-hub derive from OSError. Those of its HTTP library do not, and which
    # library that is depends on the version.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise _failed(name, reason) from error
    if not known and not any(folder.rglob("*.parquet")):
        raise DatasetError(
            f"'{name}' has no parquet files on the Hugging Face Hub.",
            "Download the data set and give its folder.",
            name=name,
        )
    return folder


def _failed(name: str, reason: str) -> DatasetError:
    hub = f"the Hugging Face Hub{_through_proxy()}"
    if name in REPOSITORIES:
        problem = f"Cannot download '{name}' from {hub} ({reason})."
        remedy = "Connect to the internet and try again, or give a folder with the data set."
    else:
        problem = (
            f"There is no file or folder '{name}', and no data set of this name can be downloaded"
            f" from {hub} ({reason})."
        )
        remedy = "Check the path or name, and for a download the connection to the internet."
    return DatasetError(problem, remedy, path=name, name=name, found=reason)


def _through_proxy() -> str:
    """Return the proxy that the download goes through, as part of a sentence; empty if none."""
    url = urllib.request.getproxies().get("https")
    if not url or urllib.request.proxy_bypass(_HOST):
        return ""
    return f" through the proxy {without_password(url)}"
