"""What a page shows works as it is shown, in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

from devstack.stack import RunningStack

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs/how-to/test-an-agent.md"
WAIT_S = 120


async def test_the_page_on_testing_an_agent_passes_as_it_stands(stack: RunningStack, tmp_path: Path) -> None:
    for block in re.findall(r"^```\w+\n# ([\w.]+)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        (tmp_path / block[0]).write_text(block[1], encoding="utf-8")
    assert set(os.listdir(tmp_path)) == {"tools.py", "desk.yaml", "test_desk.py", "pytest.ini"}

    pytest_run = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pytest", "-q", "-p", "no:cacheprovider"),
        cwd=tmp_path,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"TEMPORAL_ADDRESS": stack.temporal_address, "DATABASE_URL": stack.database_url},
    )
    out, _ = await asyncio.wait_for(pytest_run.communicate(), WAIT_S)
    assert pytest_run.returncode == 0, out.decode()
    assert "1 passed" in out.decode()
