"""Prometheus's text format: read pages, put labels on them, join them into one page.

Lines are taken as they are. prometheus_client's parser follows OpenMetrics instead, and renames
counters: Triton's ``nv_inference_count`` would become ``nv_inference_count_total``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# Name, labels and value; a timestamp is left out, since each page is made when it is asked for.
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})?[ \t]+([^\s{}]+)(?:[ \t]+-?\d+)?[ \t]*")
_HEADING = re.compile(r"# (HELP|TYPE) (\S+) ?(.*)")


@dataclass
class Family:
    """Metrics of one name.

    Attributes:
        name: the name.
        kind: ``counter``, ``gauge``, ``histogram``, ``summary`` or ``untyped``.
        help: what it is.
        samples: lines of the page.
    """

    name: str
    kind: str = "untyped"
    help: str = ""
    samples: list[str] = field(default_factory=list)


def read_page(
    text: str,
    labels: Mapping[str, str] | None = None,
    keep: Callable[[str], bool] | None = None,
) -> list[Family]:
    """Read a page of metrics. Lines that are not in Prometheus's format are left out.

    Args:
        text: the page.
        labels: labels that every sample gets.
        keep: returns whether the metrics of a name are wanted; None keeps all.
    """
    added = write_labels(labels or {})
    families: dict[str, Family] = {}
    current = Family("")
    for line in text.splitlines():
        if heading := _HEADING.fullmatch(line):
            key, name, value = heading.groups()
            current = families.setdefault(name, Family(name))
            if key == "HELP":
                current.help = value
            else:
                current.kind = value.strip()
        elif sample := _SAMPLE.fullmatch(line):
            name, own, value = sample.groups()
            if not _belongs(name, current):
                current = families.setdefault(name, Family(name))
            both = ",".join(part for part in ((own or "").rstrip(", "), added) if part)
            current.samples.append(f"{name}{{{both}}} {value}" if both else f"{name} {value}")
    return [
        item for item in families.values() if item.samples and (keep is None or keep(item.name))
    ]


def write_page(families: Iterable[Family]) -> str:
    """Write metrics as a page. Those of the same name are joined under one heading."""
    joined: dict[str, list[Family]] = {}
    for family in families:
        joined.setdefault(family.name, []).append(family)
    lines: list[str] = []
    for name, parts in joined.items():
        lines.append(f"# HELP {name} {parts[0].help}".rstrip())
        lines.append(f"# TYPE {name} {parts[0].kind}")
        lines += [sample for part in parts for sample in part.samples]
    return "".join(f"{line}\n" for line in lines)


def write_labels(labels: Mapping[str, str]) -> str:
    """Return labels as they stand between a sample's braces."""
    return ",".join(f'{name}="{_escape(value)}"' for name, value in labels.items())


def _belongs(name: str, family: Family) -> bool:
    """Return whether a sample is one of a family, such as a bucket of a histogram."""
    return bool(family.name) and name in {
        family.name, f"{family.name}_bucket", f"{family.name}_sum", f"{family.name}_count"
    }  # fmt: skip


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
