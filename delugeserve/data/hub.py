"""Data sets that are downloaded by name from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from delugeserve.data.splits import SplitName
from delugeserve.errors import DatasetError
from delugeserve.system.imports import require

# The data sets of ``zoo.TASKS`` that can be downloaded without an account.
REPOSITORIES: Mapping[str, str] = MappingProxyType(
    {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
)


def download(name: str, split: SplitName) -> Path:
    """Download the parquet files of a split, unless they are in the Hub's cache.

    Args:
        name: a key of ``REPOSITORIES``.
        split: ``train`` or ``test``.

    Returns:
        A folder of the Hub's cache, with the files below it.

    Raises:
        DatasetError: the download failed.
        MissingExtraError: huggingface-hub is not installed.
    """
    hub = require("huggingface_hub", "train")
    try:
        folder = hub.snapshot_download(
            repo_id=REPOSITORIES[name],
            repo_type="dataset",
            allow_patterns=[f"*/{split}-*.parquet"],
        )
    # Errors of huggingface-hub derive from OSError. Those of its HTTP library do not, and which
    # library that is depends on the version.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatasetError(
            f"Cannot download '{name}' from the Hugging Face Hub ({reason}).",
            "Connect to the internet and try again, or give a folder with the data set.",
            name=name,
            found=reason,
        ) from error
    return Path(folder)
