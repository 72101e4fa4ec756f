"""Choices of the command line, which are known before anything else is imported."""

from __future__ import annotations

from typing import Literal

FormatName = Literal["table", "json", "jsonl", "csv", "parquet"]
"""Forms of the results. The first two are printed only."""

Decode = Literal["auto", "client", "server"]
"""Who decodes images; ``auto`` is the faster one."""

EngineName = Literal["local", "ray"]
"""Where images are classified from: this process, or a Ray cluster."""
