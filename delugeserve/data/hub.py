"""Data sets fetched by name from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from delugeserve.data.splits import SplitName
from delugeserve.errors import DatasetError, require

# The names of ``zoo.DATASETS`` that can be had without an account.
REPOSITORIES: Mapping[str, str] = MappingProxyType(
    {"cifar10": "uoft-cs/cifar10", "cifar100": "uoft-cs/cifar100"}
)


def download(name: str, split: SplitName) -> Path:
    """Fetch a split's parquet files, unless they are in the cache already.

    Args:
        name: a key of ``REPOSITORIES``.
        split: which split.

    Returns:
        The folder that they are below, in the Hub's own cache.

    Raises:
        DatasetError: the hub cannot be reached, or refuses.
        MissingExtraError: huggingface-hub is not installed.
    """
    hub = require("huggingface_hub", "train")
    try:
        folder = hub.snapshot_download(
            repo_id=REPOSITORIES[name],
            repo_type="dataset",
            allow_patterns=[f"*/{split}-*.parquet"],
        )
    # Its own errors derive from OSError; those of the HTTP library beneath, which is another one in
    # other versions, do not.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DatasetError(
            f"'{name}' cannot be downloaded from the Hugging Face Hub ({reason}).",
            "Get the data set in another way, and give its folder with --data.",
        ) from error
    return Path(folder)
