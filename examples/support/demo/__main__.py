"""`python -m examples.support.demo`: plays the demo and ends with one line of JSON."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from devstack.errors import DevStackError
from devstack.stack import StackSettings, open_stack
from examples.support.shop_data import load_shop, load_tickets
from holdfast import HoldfastError

from .house import DemoError
from .options import Options, read_options
from .play import Play, staged
from .report import Proof
from .screen import PLAIN_WIDTH, Screen, final_table, proof_table
from .surge import play_surge

EXIT_USAGE = 2
"""The input is wrong, or a part could not be started."""


async def play(options: Options, console: Console) -> Proof:
    """Play the demo; gives the proof that its books make."""
    shop, tickets = load_shop(options.shop), load_tickets(options.tickets)
    simulated = options.model is None
    screen = Screen(console, simulated=simulated)
    screen.say(f"{len(tickets)} tickets, {len(shop.users)} customers, {len(shop.orders)} orders; seed {options.seed}")
    screen.say(
        "every model answer is simulated, and so is its price; the people who decide are a script"
        if simulated
        else f"the model is real and costs money: {options.model}; the people who decide are a script"
    )
    folder = Path(tempfile.mkdtemp(prefix="holdfast-demo-"))
    async with open_stack(StackSettings(on_line=screen.say)) as stack:
        screen.say(f"PostgreSQL and Temporal {stack.temporal_origin} are up; Web UI: {stack.ui_url or 'none'}")
        async with staged(options, stack, shop, tickets, folder, screen) as performance:
            await performance.perform()
            proof = await performance.proof()
            await _show_end(console, performance, proof, simulated=simulated)
            if options.keep:
                await _stay(screen, stack.ui_url)
    if proof.broken:
        screen.say(f"the logs are kept in {folder}")
    else:
        shutil.rmtree(folder, ignore_errors=True)
    return proof


async def _show_end(console: Console, performance: Play, proof: Proof, *, simulated: bool) -> None:
    states = await performance.books.progress(performance.run_ids())
    outcomes = await performance.books.outcomes(performance.run_ids())
    console.print(final_table(performance.standing(), states, outcomes, simulated=simulated))
    console.print(proof_table(proof))
    for promise in proof.broken:
        console.print(f"[bold red]BROKEN:[/bold red] {promise}")


async def _stay(screen: Screen, ui_url: str | None) -> None:
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    screen.say(f"all stays up: {ui_url or 'the Web UI is not ours'}; Ctrl-C ends it")
    await ended.wait()


def main() -> int:
    """Play, and print the proof as the last line. 0: every promise held; 1: one did not; 2: it could not be played."""
    options = read_options(sys.argv[1:])
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    try:
        if options.surge:
            return asyncio.run(play_surge(options, console))
        proof = asyncio.run(play(options, console))
    except (HoldfastError, DevStackError, DemoError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return EXIT_USAGE
    except KeyboardInterrupt:
        return 130
    sys.stdout.write(json.dumps(proof.as_json()) + "\n")
    return proof.exit_code


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # The Temporal SDK can abort in the interpreter's teardown, which would change the status.
    os._exit(status)
