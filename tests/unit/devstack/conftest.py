"""Small real programs on disk, in place of the large ones that the development stack looks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

MakeProgram = Callable[[Path, str], Path]


@pytest.fixture
def program() -> MakeProgram:
    """Write a shell script that can be run."""

    def make(path: Path, script: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def lines() -> list[str]:
    """Collects what a user would be told."""
    return []
