"""The images of a run: those it trains on, those it watches, those it is tested on at the end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from delugeserve.data.catalogue import Catalogue, open_source
from delugeserve.errors import DatasetError
from delugeserve.system.progress import NO_PROGRESS, Progress
from delugeserve.training.batches import Images, Reading, read_split
from delugeserve.training.config import Measured, RunConfig
from delugeserve.training.saving import write_json
from delugeserve.zoo import Task

DATA_FILE = "data.json"


@dataclass(frozen=True)
class RunImages:
    """The images of a run.

    Attributes:
        train: what it trains on.
        watched: what it is measured on after every epoch.
        watched_split: the split that ``watched`` is. It is the test split where none of the
            training images are held out, as in the paper.
        final: what it is measured on at the end: the test split, or the validation split of data
            without one.
        final_split: the split that ``final`` is.
    """

    train: Images
    watched: Images
    watched_split: Measured
    final: Images
    final_split: Measured

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the number and the fingerprint of the images of each split."""
        splits = {
            "train": self.train, self.watched_split: self.watched, self.final_split: self.final
        }  # fmt: skip
        return {
            split: {"images": len(images), "fingerprint": images.fingerprint}
            for split, images in splits.items()
        }


def read_images(
    config: RunConfig,
    task: Task,
    *,
    catalogue: Catalogue | None = None,
    reading: Reading | None = None,
    progress: Progress = NO_PROGRESS,
) -> RunImages:
    """Read, or list, the images of a run.

    Args:
        config: the run's settings.
        task: what it trains for.
        catalogue: the data, if it has been opened.
        reading: how images are read; None for the defaults.
        progress: receives the number of images read.

    Raises:
        DatasetError: the images cannot be read, the classes are not the task's, or there is no
            split to measure on.
    """
    reading = reading or Reading()
    if config.task is None and not config.val_fraction:
        return _read_registered(config, task, reading, progress)
    if catalogue is None:
        catalogue = open_source(config.data, val_fraction=config.val_fraction, progress=progress)
    catalogue.require_validation()
    final_split: Measured = "test" if "test" in catalogue.splits else "validation"
    read = partial(
        catalogue.read, task=task, on_unreadable=reading.on_unreadable, progress=progress
    )
    if task.fits_memory:
        train = read("train", limit=config.limit)
    else:
        # Always decoded when needed: a random crop of the whole picture has more detail than one of
        # its resized copy, and the result does not depend on this machine's memory.
        train = catalogue.index("train", task, limit=config.limit)
    images = {split: read(split) for split in dict.fromkeys(("validation", final_split))}
    return _checked(
        config.data,
        RunImages(train, images["validation"], "validation", images[final_split], final_split),
    )


def record_images(images: RunImages, output: Path) -> None:
    """Write ``data.json``, which says what images a run has.

    Raises:
        OSError: it cannot be written.
    """
    write_json(output / DATA_FILE, images.describe())


def check_unchanged(images: RunImages, output: Path) -> None:
    """Check that a run that is resumed has the images that it was started with.

    Raises:
        DatasetError: it has others.
    """
    try:
        before = json.loads((output / DATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # of a version that did not write it
        return
    for split, now in images.describe().items():
        if split in before and before[split] != now:
            raise DatasetError(
                f"The {split} images have changed since the run in {output} was started.",
                "Restore them, or start again in another --output.",
                name=split,
                expected=before[split],
                found=now,
            )


def _read_registered(
    config: RunConfig, task: Task, reading: Reading, progress: Progress
) -> RunImages:
    """Read the whole training split and the test split, as the paper does."""
    file = Path(config.data).expanduser()
    if file.suffix == ".parquet" and file.is_file():
        # It would serve as either split, and with a limit the two would not even be equal.
        raise DatasetError(
            f"{config.data} is a single file, but training needs a training and a test split.",
            "Give a folder with both, such as train.parquet and test.parquet.",
        )
    read = partial(read_split, config.data, task=task, reading=reading, progress=progress)
    train, test = read("train", limit=config.limit), read("test")
    watched = test if config.watch_limit is None else read("test", limit=config.watch_limit)
    return _checked(config.data, RunImages(train, watched, "test", test, "test"))


def _checked(source: str, images: RunImages) -> RunImages:
    for split, one in ((images.watched_split, images.watched), (images.final_split, images.final)):
        if one.fingerprint == images.train.fingerprint:
            raise DatasetError(
                f"{source} has the same images in its training and its {split} split.",
                f"Give a folder with a train and a {split} split.",
                path=source,
                name=split,
            )
    return images
