"""What the demo shows: progress and cost while it runs, a table at the end; plain lines where there is no terminal."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from .books import RunState
from .report import REFUND_LIMIT_USD, Proof, TicketRun

LINE_EVERY_S = 3.0
PLAIN_WIDTH = 118
INDENT = " " * 9
"""As wide as the clock before a line that is said."""
_NOTHING = RunState(0, 0, 0, 0, Decimal(0))


class Screen:
    """Shows progress in place on a terminal, and as a line now and then elsewhere."""

    def __init__(self, console: Console, *, simulated: bool) -> None:
        self._console = console
        self._money = "USD, simulated" if simulated else "USD"
        self._started = time.monotonic()
        self._next_line = self._started + LINE_EVERY_S
        self._live: Live | None = None

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Keep the progress in its place for the length of the block."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield
        self._live = None

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(f"[dim]{time.monotonic() - self._started:5.1f} s[/dim]  {escape(text)}", highlight=False, soft_wrap=True)

    def quote(self, line: str) -> None:
        """A line of a command's output, cut to the width of the screen."""
        shown = f"{INDENT}{line}"
        cut = shown if len(shown) <= self._console.width else f"{shown[: self._console.width - 1]}…"
        self._console.print(escape(cut), highlight=False, soft_wrap=True)

    def show(self, states: Mapping[str, RunState], runs: Sequence[TicketRun], waiting: int = 0, parked: int = 0) -> None:
        """Show how far all have come, and how many of them only a person can move on."""
        ended = sum(run.status is not None for run in runs)
        known = [states.get(run.run_id or "", _NOTHING) for run in runs]
        calls = sum(state.model_calls for state in known)
        flying = sum(state.in_the_air for state in known)
        cost = sum((state.cost_usd for state in known), Decimal(0))
        line = f"{ended} of {len(runs)} tickets ended, {calls} model answers, {flying} in the air, {cost:.4f} {self._money}"
        line += f"; {waiting} wait for a yes, {parked} are parked" if waiting or parked else ""
        if self._live is not None:
            bar = Table.grid(expand=True)
            bar.add_row(ProgressBar(total=len(runs), completed=ended))
            self._live.update(Group(line, bar, _running(runs, known)))
        elif not self._console.is_terminal and time.monotonic() >= self._next_line:
            self._next_line = time.monotonic() + LINE_EVERY_S
            self.say(line)


def final_table(
    runs: Sequence[TicketRun],
    states: Mapping[str, RunState],
    outcomes: Mapping[str, Sequence[str]],
    *,
    simulated: bool,
) -> RenderableType:
    """A row a ticket: what became of it, steps, tokens, cost."""
    marked = " (simulated)" if simulated else ""
    table = Table(box=box.SIMPLE, title=f"Tickets{marked}", title_justify="left", pad_edge=False)
    for name in ("ticket", "run", "in the shop"):
        table.add_column(name, overflow="fold")
    for name in ("steps", "tokens", f"cost USD{marked}"):
        table.add_column(name, justify="right")
    for run in runs:
        state = states.get(run.run_id or "", _NOTHING)
        done = outcomes.get(run.run_id or "") or (["answered"] if run.status == "completed" else ["-"])
        table.add_row(run.ticket_id, run.status or "lost", ", ".join(done), str(state.steps), str(state.tokens), f"{state.cost_usd:.5f}")
    return table


def proof_table(proof: Proof) -> RenderableType:
    """The promises, held against the books."""
    table = Table(box=box.SIMPLE, title="The proof", title_justify="left", show_header=False, pad_edge=False)
    table.add_column(justify="right")
    table.add_column(overflow="fold")
    recovery = "-" if proof.recovery_s is None else f"{proof.recovery_s:.1f} s"
    billed = "the provider's journal is its own" if proof.billed_calls is None else f"the provider billed {proof.billed_calls} calls"
    rows = (
        (proof.lost, f"tickets lost, of {proof.tickets}: {proof.finished} finished, {proof.parked} parked"),
        (proof.answers_paid_twice, f"model answers paid twice, of {proof.model_calls} recorded; {billed}"),
        (proof.calls_in_the_air_at_kill, f"calls in the air at the kill, charged as unknown spend: {proof.unknown_usd:.5f} USD"),
        (proof.billed_calls_not_in_ledger, "billed calls missing from the ledger"),
        (proof.refunds_done_twice, f"refunds done twice, of {proof.refunds} in the shop's own table"),
        (proof.other_effects_done_twice, "other changes done twice"),
        (
            proof.approvals_asked,
            f"calls waited for a person's yes: {proof.approvals_given} approved, {proof.approvals_rejected} rejected, by plain signals",
        ),
        (proof.refunds_without_a_yes, f"refunds above {REFUND_LIMIT_USD} USD made without a yes"),
        (proof.letters_filed, f"steps parked as dead letters, {proof.letters_redriven} of them redriven"),
        (proof.orders_missing_in_audit, f"orders of people missing from the audit record, which holds {proof.audit_rows}"),
        (proof.kills, f"worker killed; until all that it had in the air was taken up again: {recovery}"),
    )
    for figure, meaning in rows:
        table.add_row(str(figure), meaning)
    return table


def _running(runs: Sequence[TicketRun], states: Sequence[RunState]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("ticket", "step", "answers", "cost USD"):
        table.add_column(name, justify="left" if name == "ticket" else "right")
    for run, state in zip(runs, states, strict=True):
        if run.status is None:
            table.add_row(run.ticket_id, str(state.steps), str(state.model_calls), f"{state.cost_usd:.5f}")
    return table
