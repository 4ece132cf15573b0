"""The reference page and the list of names say the same."""

from __future__ import annotations

import re
from pathlib import Path

from telemetry import names

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "telemetry.md"
NAMES = {value for name, value in vars(names).items() if name.isupper() and isinstance(value, str) and name != "SCOPE"}


def test_every_name_is_on_the_page() -> None:
    page = PAGE.read_text()
    assert sorted(name for name in NAMES if not re.search(rf"[`\".]{re.escape(name)}[`\"]|{re.escape(name)} ", page)) == []


def test_every_name_on_the_page_exists() -> None:
    told = set(re.findall(r"`((?:holdfast|gen_ai|telemetry|run)\.[a-z_.]+)`", PAGE.read_text()))
    dropped = {"gen_ai.input.messages", "gen_ai.tool.call.arguments"}
    assert told - NAMES - dropped == set()
