"""What an export changes: for users of the model, and in its ``config.pbtxt``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from delugeserve.artifacts.typed_json import to_json
from delugeserve.cli.render.console import out, print_table, print_warning
from delugeserve.errors import list_some

if TYPE_CHECKING:
    from delugeserve.artifacts.changes import Changes, ClassChanges
    from delugeserve.artifacts.config_merge import ConfigMerge, KeptSetting
    from delugeserve_export import ExportOutcome

_TITLES = {
    "image_size": "image size (pixels)",
    "resize_size": "resized to (pixels)",
    "mean": "mean of the channels",
    "std": "standard deviation of the channels",
    "max_batch_size": "largest batch",
    "top1_error": "top-1 error in training (%)",
    "top1_error_split": "split of that error",
    "bytes": "size (MB)",
}


def describe_changes(changes: Changes | None) -> dict[str, Any] | None:
    """Return changes as JSON values; None for a new model."""
    values: dict[str, Any] | None = to_json(changes)
    return values


def print_changes(changes: Changes) -> None:
    """Print what changes for users of the model; nothing if that is nothing."""
    rows = [
        (_title(name), _value(name, change.before), _value(name, change.now))
        for name, change in changes.facts.items()
    ]
    classes = changes.classes
    if not rows and not classes:
        return
    before = "before" if changes.version is None else f"version {changes.version}"
    if rows:
        print_table(("changed", before, "now"), (map(escape, row) for row in rows), texts=3)
    if classes:
        out.print(escape(f"classes: {_describe_classes(classes)}"))


def print_publication(outcome: ExportOutcome) -> None:
    """Print what publishing changed: against the served version, and in ``config.pbtxt``."""
    if outcome.changes is not None:
        print_changes(outcome.changes)
    config = outcome.config
    if config is None:
        return
    print_config(config)
    if outcome.saved_config is not None:
        print_warning(
            f"Comments of config.pbtxt could not be kept. The old file is {outcome.saved_config}."
        )


def print_config(config: ConfigMerge, file: str = "config.pbtxt") -> None:
    """Print what stays of a configuration that was edited by hand, and what does not."""
    for setting in config.kept:
        out.print(escape(f"{file}, kept as you wrote it: {_describe_setting(setting)}"))
    for one in config.replaced:
        now = f"is now {one.written}" if one.written else "was removed"
        was = one.found or "left out"
        print_warning(f"{file}: {one.field} was {was} and {now}: {one.reason}.")


def _describe_setting(setting: KeptSetting) -> str:
    if not setting.value:
        return f"no {setting.field}"
    colon = "" if setting.value.startswith("{") else ":"
    return f"{setting.field}{colon} {setting.value}"


def _title(name: str) -> str:
    if name.startswith("latency_ms_batch_"):
        return f"latency, batch {name.rpartition('_')[2]} (ms)"
    return _TITLES.get(name, name)


def _value(name: str, value: Any) -> str:
    if name == "bytes":
        return f"{value / 1e6:.1f}"
    if name == "top1_error" or name.startswith("latency_ms_"):
        return f"{value:.2f}"
    if isinstance(value, tuple):
        return ", ".join(f"{one:.4g}" for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _describe_classes(classes: ClassChanges) -> str:
    if classes.reordered:
        return "the same in another order"
    parts = []
    for what, names in (("added", classes.added), ("removed", classes.removed)):
        if names:
            parts.append(f"{len(names)} {what} ({list_some(names)})")
    return ", ".join(parts)
