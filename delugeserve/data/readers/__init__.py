"""Readers of labelled images: one module for each layout on disk, all with a ``find`` function.

- :mod:`.parquet`: parquet files of encoded images, or of paths, and labels;
- :mod:`.cifar_archives`: the original CIFAR archives, packed or unpacked;
- :mod:`.tars`: WebDataset archives, and class folders in a tar file;
- :mod:`.folders`: class folders, ``train/<class>/*.png`` or ``<class>/*.png``;
- :mod:`.tables`: CSV files of paths and labels.

``find`` returns None for a path that holds another layout, so that the next one can be tried.
"""

from __future__ import annotations

from pathlib import Path

from delugeserve.data.readers import cifar_archives, folders, parquet, tables, tars
from delugeserve.data.readers.layout import Form, Layout

__all__ = ["Form", "Layout", "find_layout"]


def find_layout(path: Path, prefer: str | None = None) -> Layout | None:
    """Recognise the layout of a source by the names of its files; None if there is none.

    Args:
        path: a file or folder.
        prefer: name of a registered data set: of several CIFAR archives, its own is used.

    Raises:
        DatasetError: files of a known layout are incomplete.
    """
    found = parquet.find(path) or cifar_archives.find(path, prefer) or folders.find_splits(path)
    if found is not None:
        return found
    packed, undivided = tars.find(path), folders.find_undivided(path)
    if packed is not None and (packed.divided or undivided is None):
        return packed  # not the archive beside the class folders that were unpacked from it
    return tables.find(path) or undivided
