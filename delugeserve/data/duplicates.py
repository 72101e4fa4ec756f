"""Images that occur more than once, within a split or in two of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from delugeserve.data.encoded import Encoded, EncodedImages
from delugeserve.data.splits import SplitName
from delugeserve.system.progress import NO_PROGRESS, Progress

MOST_BYTES = 2**30
"""How much is read to compare images, in bytes."""

_Place = tuple[SplitName, int]


@dataclass(frozen=True)
class Copies:
    """Image files that occur more than once.

    Attributes:
        splits: the split that has the originals, and the split that has the copies; the same
            split twice for copies within it.
        images: number of copies.
        example: names of an original and of its copy.
    """

    splits: tuple[SplitName, SplitName]
    images: int
    example: tuple[str, str]


@dataclass(frozen=True)
class Duplicates:
    """Identical image files. Copies in another format or size are not found.

    Attributes:
        compared: number of images that were compared with all others.
        total: number of images. Fewer are compared if they have more than a gibibyte.
        across: copies in another split.
        within: copies in the same split.
        relabelled: number of image files that occur with two labels.
        example: names of one of them and of its copy with another label; None if there is none.
    """

    compared: int
    total: int
    across: tuple[Copies, ...] = ()
    within: tuple[Copies, ...] = ()
    relabelled: int = 0
    example: tuple[str, str] | None = None


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
    found: dict[tuple[SplitName, SplitName], list[tuple[_Place, _Place]]] = defaultdict(list)
    relabelled: list[tuple[_Place, _Place]] = []
    for places in by_content.values():
        # The first image of each split is the original of those that follow in it.
        firsts: dict[SplitName, _Place] = {}
        for place in places:
            for original in firsts.values():
                found[original[0], place[0]].append((original, place))
            firsts.setdefault(place[0], place)
        label = _label(splits, places[0])
        other = next((place for place in places if _label(splits, place) != label), None)
        if other is not None:
            relabelled.append((places[0], other))

    def name(pair: tuple[_Place, _Place]) -> tuple[str, str]:
        (one, first), (other, second) = pair
        return splits[one].name(first), splits[other].name(second)

    copies = [Copies(pair, len(places), name(places[0])) for pair, places in found.items()]
    return Duplicates(
        compared,
        total,
        tuple(one for one in copies if one.splits[0] != one.splits[1]),
        tuple(one for one in copies if one.splits[0] == one.splits[1]),
        len(relabelled),
        name(relabelled[0]) if relabelled else None,
    )


def _label(splits: Mapping[SplitName, EncodedImages], place: _Place) -> int:
    split, index = place
    return int(splits[split].labels[index])


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
