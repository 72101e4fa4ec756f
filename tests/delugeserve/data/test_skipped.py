"""Counts of skipped files."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from delugeserve.data.skipped import SkippedFiles

KINDS = st.sampled_from([".txt", ".xcf", "hidden", "folder", "broken link"])


@given(st.lists(st.tuples(KINDS, st.text(min_size=1))))
def test_every_file_is_counted_and_the_first_are_named(found):
    skipped = SkippedFiles.count(iter(found))
    assert skipped.kinds == Counter(kind for kind, _ in found)
    assert skipped.total == len(found)
    assert skipped.names == tuple(name for _, name in found[:3])


def test_the_text_starts_with_the_most_frequent_kind():
    found = [(".txt", "a/1.txt"), ("folder", "a/b"), ("folder", "a/c"), ("hidden", "a/.d")]
    assert str(SkippedFiles.count(found)) == (
        "4 files (2 folders, 1 .txt, 1 hidden): a/1.txt, a/b, a/c, ..."
    )
    assert str(SkippedFiles.count(found[:1])) == "1 file (1 .txt): a/1.txt"
