"""Files in class folders that are not read, counted so that nothing is skipped silently."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

_NAMED = 3
_COUNTABLE = ("folder", "broken link", "special file")  # other kinds have no plural


@dataclass(frozen=True)
class SkippedFiles:
    """How many files were skipped, of which kinds, and the first names.

    Attributes:
        kinds: number of files of each kind. The kind is the suffix in lower case, such as
            ``.txt``, or one of ``without suffix``, ``hidden``, ``folder``, ``broken link``,
            ``special file`` and ``outside class folders``.
        names: paths of the first skipped files, relative to the split's folder.
    """

    kinds: Mapping[str, int] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @classmethod
    def count(cls, found: Iterable[tuple[str, str]]) -> SkippedFiles:
        """Count skipped files.

        Args:
            found: kind and relative path of each.
        """
        kinds: Counter[str] = Counter()
        names: list[str] = []
        for kind, name in found:
            kinds[kind] += 1
            if len(names) < _NAMED:
                names.append(name)
        return cls(dict(kinds), tuple(names))

    @property
    def total(self) -> int:
        """Number of skipped files."""
        return sum(self.kinds.values())

    def __str__(self) -> str:
        """Return, for example, ``3 files (2 .txt, 1 hidden): cat/a.txt, cat/b.txt, ...``."""
        files = "1 file" if self.total == 1 else f"{self.total:,} files"
        ordered = sorted(self.kinds.items(), key=lambda item: (-item[1], item[0]))
        kinds = ", ".join(
            f"{count:,} {kind}{'s' if count > 1 and kind in _COUNTABLE else ''}"
            for kind, count in ordered
        )
        more = ", ..." if self.total > len(self.names) else ""
        return f"{files} ({kinds}): {', '.join(self.names)}{more}"
