"""`python -m state`: bring the database of DATABASE_URL up to date, or with `--check` only say what is missing.

Prints one line a migration. Ends with 0 when the database is up to date, 1 when it is not or cannot be, 2 when it was called wrongly.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping, Sequence

import asyncpg

from state.migrate import migrate, pending
from workflows.contracts.errors import HoldfastError

UP_TO_DATE, NOT_UP_TO_DATE, WRONG_CALL = 0, 1, 2
CONNECT_TIMEOUT_S = 15.0


async def bring_up_to_date(dsn: str) -> int:
    """Apply what is missing and print each name."""
    applied = await migrate(dsn)
    sys.stdout.writelines(f"applied {name}\n" for name in applied)
    if not applied:
        sys.stdout.write("the database is up to date\n")
    return UP_TO_DATE


async def say_what_is_missing(dsn: str) -> int:
    """Print what `bring_up_to_date` would apply; changes nothing."""
    connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
    try:
        missing = await pending(connection)
    finally:
        await connection.close()
    sys.stdout.writelines(f"missing {name}\n" for name in missing)
    return NOT_UP_TO_DATE if missing else UP_TO_DATE


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m state", description="Bring Holdfast's database (DATABASE_URL) up to date.")
    parser.add_argument("--check", action="store_true", help="change nothing; list what is missing and end with 1 if anything is")
    chosen = parser.parse_args(arguments)
    dsn = environ.get("DATABASE_URL")
    if not dsn:
        sys.stderr.write("DATABASE_URL is not set: it names the PostgreSQL database to bring up to date.\n")
        return WRONG_CALL
    try:
        return asyncio.run(say_what_is_missing(dsn) if chosen.check else bring_up_to_date(dsn))
    except HoldfastError as error:
        sys.stderr.write(f"{error}\n")
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        sys.stderr.write(f"The database of DATABASE_URL cannot be used: {type(error).__name__}: {error}\n")
    return NOT_UP_TO_DATE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
