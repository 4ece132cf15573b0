"""The command that tells how far limits are used, and who waits for them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

from client.command_line.exits import ExitCode
from client.command_line.options import AsJson
from client.command_line.terminal import clock, put, put_json, put_table, seconds


def limits(*, json: AsJson = False) -> int:
    """Tell what every limit allows and has free now, and who waits, for how long."""

    async def told() -> int:
        from client.command_line.connection import connected

        async with connected() as holdfast:
            found = await holdfast.limits()
        if json:
            put_json({"limits": [asdict(each) for each in found.limits], "waiting": [asdict(each) for each in found.waiting]})
            return ExitCode.OK
        put_table(
            ["limit", "configured", "in force", "free now", "held", "provider says", "booked", "closed until", "waiting"],
            [
                [
                    each.name,
                    f"{each.limit:,.0f}",
                    f"{each.in_force:,.0f}",
                    f"{each.free_now:,.0f}",
                    f"{each.held:,.0f}" if each.kind == "concurrency" else "",
                    "" if each.told_remaining is None else f"{each.told_remaining:,.0f} left",
                    seconds(each.booked_s) if each.booked_s else "",
                    clock(each.blocked_until),
                    str(each.waiting or ""),
                ]
                for each in found.limits
            ],
        )
        if found.waiting:
            put("")
            put_table(
                ["run", "step", "priority", "limit", "since", "expected in", "slot"],
                [
                    [
                        each.run_id,
                        str(each.step),
                        each.priority,
                        each.limit,
                        clock(each.since),
                        seconds(each.expected_s),
                        "reserved" if each.reserved else "asks again",
                    ]
                    for each in found.waiting
                ],
            )
        return ExitCode.OK

    return asyncio.run(told())
