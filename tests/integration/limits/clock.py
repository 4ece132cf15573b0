"""A clock for the limits of a database, moved by hand."""

from __future__ import annotations

from dataclasses import dataclass

from state.pool import Database

BEGIN_S = 1_800_000_000.0
STILL = """
create table still_clock (at double precision not null);
create or replace function limit_now() returns double precision language sql as $$ select at from still_clock $$;
"""


@dataclass
class Clock:
    """Stands still until it is moved."""

    database: Database
    now_s: float = BEGIN_S

    @classmethod
    async def put_into(cls, database: Database) -> Clock:
        """Put it in the place of the database's own."""
        await database.execute(STILL)
        await database.execute("insert into still_clock values ($1)", BEGIN_S)
        return cls(database)

    async def move_to(self, moment_s: float) -> None:
        """Never back."""
        self.now_s = max(self.now_s, moment_s)
        await self.database.execute("update still_clock set at = $1", self.now_s)

    async def go_on(self, seconds: float) -> None:
        """So many seconds later."""
        await self.move_to(self.now_s + seconds)
