"""What the doctor says of one part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """What was found of one part."""

    name: str
    level: Level
    detail: str
    remedy: str = ""
    """Empty when there is nothing to do."""
