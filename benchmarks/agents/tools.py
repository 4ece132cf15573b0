"""The tool of the benchmarks: gives 4 KB of text."""

from __future__ import annotations

from holdfast import tool

RESULT = "The quick brown fox jumps over the lazy dog; item {number}. "


@tool
async def look_up(number: int) -> str:
    """Look one thing up by its number."""
    line = RESULT.format(number=number)
    return (line * (4096 // len(line) + 1))[:4096]
