"""`python -m devstack.prepare`: get the programs of the development stack ready, so that nothing later waits for a build."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable, Mapping

from devstack import postgres_binaries
from devstack.errors import DevStackError
from devstack.outside_servers import database_place
from devstack.temporal_program import find_program


def say(line: str) -> None:
    """Tell one line of progress, at once."""
    sys.stdout.write(f"devstack: {line}\n")
    sys.stdout.flush()


async def prepare(environment: Mapping[str, str], on_line: Callable[[str], None]) -> None:
    """Find, download or build what `open_stack` will need, and tell what it was. Raises DevStackError."""
    started = time.monotonic()
    if given := environment.get("DATABASE_URL"):
        on_line(f"PostgreSQL: {database_place(given)}, from DATABASE_URL")
    else:
        programs = postgres_binaries.binaries()
        postgres_binaries.account(programs.parent / "no data yet")
        on_line(f"PostgreSQL: packaged programs in {programs}")
    if address := environment.get("TEMPORAL_ADDRESS"):
        on_line(f"Temporal: {address}, from TEMPORAL_ADDRESS")
    else:
        program = await find_program(environment, on_line)
        on_line(f"Temporal: {program.version}, {program.origin} ({program.path})")
    on_line(f"ready after {time.monotonic() - started:.1f} s")


def main() -> int:
    """Prepare with the process's environment; 0, or 1 with the reason on standard error."""
    try:
        asyncio.run(prepare(os.environ, say))
    except DevStackError as error:
        sys.stderr.write(f"devstack: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
