"""What commands print: tables and JSON on standard output, words for people on standard error; no colours in a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, TextIO

from pydantic import BaseModel

COLUMN_GAP = "  "
FLEXIBLE = ("said", "tools", "status", "what")
"""Columns whose cells may be broken to fit a terminal; the others are ids and figures."""


def put(text: str, stream: TextIO | None = None) -> None:
    """Write one line, or several, at once. What a model wrote must not steer a terminal, so control codes are taken out there."""
    out = stream or sys.stdout
    out.write((printable(text) if out.isatty() else text) + "\n")
    out.flush()


def say(text: str) -> None:
    """A line for people, beside the output."""
    put(text, sys.stderr)


def put_json(value: Any) -> None:
    """The one JSON value of a command with `--json`."""
    put(json.dumps(value, default=_plain, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def put_line(value: Any) -> None:
    """One JSON value a line, for output that comes bit by bit."""
    put(json.dumps(value, default=_plain, ensure_ascii=False))


def put_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under their headings: framed on a terminal; in a pipe one line a row, whole, in columns that `awk` can tell apart."""
    if sys.stdout.isatty():
        _framed(columns, rows)
        return
    lines = [[column.upper() for column in columns], *([one_cell(cell) or "-" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        put(COLUMN_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def one_cell(text: str) -> str:
    """The text on one line, without control codes."""
    return " ".join(printable(text).split())


def printable(text: str) -> str:
    """The text without what could move a cursor or set a colour."""
    return "".join(char for char in text if char.isprintable() or char in "\n\t")


def usd(amount: Decimal | None) -> str:
    """An amount in US dollars, with as many places as small prices need."""
    return "" if amount is None else f"${amount:.4f}" if amount < 1 else f"${amount:.2f}"


def seconds(duration_s: float | None) -> str:
    """A duration as people say it."""
    if duration_s is None:
        return ""
    if duration_s < 60:
        return f"{duration_s:.2f} s"
    minutes, rest = divmod(round(duration_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def clock(moment: datetime | None) -> str:
    """A moment in the local time zone."""
    return "" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short_clock(moment: datetime) -> str:
    """The same, shorter on a terminal: today's have no date, others no seconds."""
    local = moment.astimezone()
    if not sys.stdout.isatty():
        return clock(moment)
    return local.strftime("%H:%M:%S" if local.date() == datetime.now().astimezone().date() else "%m-%d %H:%M")


def _framed(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold" if column in FLEXIBLE else "ellipsis", no_wrap=column not in FLEXIBLE)
    for row in rows:
        table.add_row(*(Text(one_cell(cell)) for cell in row))
    Console().print(table)


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} is no JSON value")
