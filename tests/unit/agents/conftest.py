"""A folder that a test fills, and what becomes of it when it is read."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.agents import folders
from activities.agents.folders import Catalog
from workflows.contracts.errors import DefinitionError

AGENT = """
name: support
instructions: You answer customers.
"""
TOOLS = '''
from holdfast import Effect, tool


@tool
async def find_order(order_id: str) -> str:
    """Look an order up."""
    return order_id


@tool(effect=Effect.ONCE, approve="amount_usd > 50", key="order_id")
async def refund(order_id: str, amount_usd: float) -> str:
    """Pay an order back."""
    return order_id
'''
HTTP_TOOL = """
tool: track
description: Says where a shipment is.
parameters:
  type: object
  properties:
    number: {type: string}
    language: {type: string}
  required: [number]
http:
  method: GET
  url: https://carrier.example/shipments/{number}
  headers:
    Authorization: Bearer ${env:CARRIER_TOKEN}
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write("agents/support.yaml", text)`: a file of the folder; returns the folder."""

    def written(name: str, text: str | bytes) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else textwrap.dedent(text).lstrip("\n").encode())
        return tmp_path

    return written


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Catalog]:
    """What the folder defines; or other folders."""
    return lambda *paths: folders.load(paths or [tmp_path])


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Why the folder is refused: the message must name the file, and the line where one is given."""

    def refusal(file: str, line: int | None, pattern: str, *paths: Path) -> str:
        with pytest.raises(DefinitionError) as caught:
            folders.load(paths or [tmp_path])
        message = str(caught.value)
        where = f"{tmp_path / file}:{line}:" if line else str(tmp_path / file)
        assert where in message, message
        assert re.search(pattern, message), message
        return message

    return refusal
