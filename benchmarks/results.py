"""Where benchmark results go: one section a benchmark in RESULTS.md, with date, machine and versions; a JSON line at the end."""

from __future__ import annotations

import json
import math
import os
import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
HEAD = "# Benchmark results\n\nEach section is written by `make bench NAME=…`; figures are from one run, side by side, on one machine.\n"


@dataclass(frozen=True)
class Measured:
    """What one benchmark found: figures for the JSON line, a Markdown text for people."""

    name: str
    figures: dict[str, float | int | str]
    markdown: str
    versions: Sequence[str] = field(default=("temporalio", "openai", "anthropic", "asyncpg", "pydantic"))


def write(measured: Measured, path: Path = RESULTS) -> str:
    """Put the section into RESULTS.md in place of its last version; returns the JSON line."""
    line = json.dumps({"benchmark": measured.name} | measured.figures)
    section = f"## {measured.name}\n\n{_circumstances(measured.versions)}\n\n{measured.markdown.strip()}\n\n```json\n{line}\n```\n"
    text = path.read_text(encoding="utf-8") if path.exists() else HEAD
    found = re.search(rf"^## {re.escape(measured.name)}\n.*?(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    text = text[: found.start()] + section + "\n" + text[found.end() :] if found else text.rstrip() + "\n\n" + section
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
    return line


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are rounded to what they can bear."""
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "n/a"
    return f"{value:,.3g}" if abs(value) < 1_000 else f"{value:,.0f}"


def _circumstances(names: Sequence[str]) -> str:
    found = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}, {found}."
