"""Images that occur more than once, within a split or in two of them."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from delugeserve.data.encoded import Encoded, EncodedImages
from delugeserve.data.splits import SplitName
from delugeserve.system.progress import NO_PROGRESS, Progress

_NAMED = 3
MOST_BYTES = 2**30
"""How much is read to compare images, in bytes."""

_Place = tuple[SplitName, int]


@dataclass(frozen=True)
class Duplicates:
    """Identical image files. Copies in another format or size are not found.

    Attributes:
        compared: number of images that were compared with all others.
        total: number of images. Fewer are compared if they have more than a gibibyte.
        within: for each split, the number of images that repeat an earlier one of it.
        across: for two splits, the number of images of the second that the first has too.
        relabelled: number of images that occur with two labels.
        names: names of the first images, each with that of its copy.
    """

    compared: int
    total: int
    within: Mapping[SplitName, int] = field(default_factory=dict)
    across: Mapping[tuple[SplitName, SplitName], int] = field(default_factory=dict)
    relabelled: int = 0
    names: tuple[tuple[str, str], ...] = ()


def find_duplicates(
    splits: Mapping[SplitName, EncodedImages], *, progress: Progress = NO_PROGRESS
) -> Duplicates:
    """Compare the contents of all images of a source.

    Only images of the same length are read, as far as lengths are known, and no more than
    ``MOST_BYTES``.

    Args:
        splits: the images; those of the first split count as the originals.
        progress: receives the number of images compared.

    Raises:
        DatasetError: a file that holds images is damaged.
    """
    total = sum(map(len, splits.values()))
    by_content: dict[bytes, list[_Place]] = defaultdict(list)
    compared = 0
    progress.stage("compare images", total)
    for content, place in _contents(splits):
        if content is not None:
            by_content[hashlib.blake2b(content, digest_size=16).digest()].append(place)
        compared += 1
        progress.advance(1)
    within: Counter[SplitName] = Counter()
    across: Counter[tuple[SplitName, SplitName]] = Counter()
    relabelled, names = 0, []
    order = list(splits)
    for places in by_content.values():
        if len(places) < 2:
            continue
        counts = Counter(split for split, _ in places)
        within.update({split: count - 1 for split, count in counts.items() if count > 1})
        found = [split for split in order if split in counts]
        across.update(
            {
                (first, second): counts[second]
                for number, first in enumerate(found)
                for second in found[number + 1 :]
            }
        )
        relabelled += len({int(splits[split].labels[index]) for split, index in places}) > 1
        # A copy in another split matters most.
        (one, first), (other, second) = places[0], max(places[1:], key=lambda p: order.index(p[0]))
        names.append((one != other, splits[one].name(first), splits[other].name(second)))
    names.sort(key=lambda found: not found[0])
    return Duplicates(
        compared,
        total,
        dict(within),
        dict(across),
        relabelled,
        tuple((one, other) for _, one, other in names[:_NAMED]),
    )


def _contents(
    splits: Mapping[SplitName, EncodedImages],
) -> Iterator[tuple[bytes | None, _Place]]:
    """Yield the content and the place of images until enough was read.

    The content is None for an image whose length no other image has, and for one that is lost.
    """
    by_length: dict[int | None, list[_Place]] = defaultdict(list)
    for split, images in splits.items():
        for index, row in enumerate(images.rows.tolist()):
            by_length[images.store.length(row)].append((split, index))
    read = 0
    for length, places in by_length.items():
        if len(places) == 1 and length is not None:
            yield None, places[0]
            continue
        if read > MOST_BYTES:
            continue
        for split, index in places:
            content = _read(splits[split][index])
            read += len(content or b"")
            yield content, (split, index)
            if read > MOST_BYTES and length is None:
                break


def _read(image: Encoded) -> bytes | None:
    if isinstance(image, Path):
        try:
            return image.read_bytes()
        except OSError:  # decoding the image reports that
            return None
    return image if isinstance(image, bytes) else image.tobytes()
