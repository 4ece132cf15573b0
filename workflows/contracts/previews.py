"""Previews: what a history, a list or a log shows of a text."""

from __future__ import annotations

from workflows.contracts.runs import PREVIEW_CHARS


def one_line(text: str) -> str:
    """The text as one short line."""
    flat = " ".join(text.split())
    return flat if len(flat) <= PREVIEW_CHARS else flat[: PREVIEW_CHARS - 1] + "…"
