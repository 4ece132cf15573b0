"""A run's report as a person reads it."""

from __future__ import annotations

from client.command_line.terminal import clock, put, put_table, seconds, usd
from client.reports import RunReport
from client.steps import StepReport


def put_report(report: RunReport, depth: int = 0) -> None:
    """Print the report, and its sub-runs' below it."""
    put(_head(report))
    put_table(["step", "what", "state", "tokens", "cost", "took", "tries", "said"], [_row(step) for step in report.steps])
    for child in report.sub_runs:
        put("")
        put_report(child, depth + 1)
    if depth == 0:
        put("")
        put(_totals(report))


def _head(report: RunReport) -> str:
    status = report.status.value.replace("_", " ") if report.status else "no longer kept by Temporal"
    lines = [f"run {report.id}: {report.agent}, {status}" + (", simulated" if report.simulated else "")]
    lines.append(
        f"  tenant {report.tenant}" + (f", user {report.user}" if report.user else "") + f", definition {report.definition_hash[:12]}"
    )
    took = f", ended {clock(report.ended_at)}" if report.ended_at else ""
    lines.append(f"  started {clock(report.created_at)}{took}")
    if report.idempotency_key:
        lines.append(f"  idempotency key {report.idempotency_key}")
    if report.parent_run_id:
        lines.append(f"  part of run {report.parent_run_id}")
    if report.origin:
        lines.append(f"  {report.origin}")
    if report.failure:
        failure_class = f" ({report.failure_class.value})" if report.failure_class else ""
        lines.append(f"  {'stopped' if report.ended_at else 'parked'}{failure_class}: {report.failure}")
        if not report.ended_at:
            lines.append(f"  go on with: holdfast redrive {report.id} --action retry|skip|abort")
    if report.delayed and not report.ended_at:
        lines.append(f"  {report.delayed}")
    for approval in report.approvals:
        lines.append(f"  waits for a yes or no to {approval.tool} {approval.preview}")
        lines.append(f"    holdfast approve {report.id} {approval.call_id}   or   holdfast reject {report.id} {approval.call_id}")
    if report.url:
        lines.append(f"  {report.url}")
    return "\n".join(lines) + "\n"


def _row(step: StepReport) -> list[str]:
    usage = step.usage
    tokens = f"{usage.input_tokens}+{usage.output_tokens}" if usage.total_tokens else ""
    cost = usd(step.cost_usd) if step.cost_usd else ""
    unknown = f" ({usd(step.unknown_usd)} unknown)" if step.unknown_usd else ""
    near = f" {step.similarity:.3f}" if step.similarity is not None else ""
    mark = (" (simulated)" if step.simulated else "") + (f" ({step.cached} hit{near})" if step.cached else "")
    mark = f" (shared){mark}" if step.shared else mark
    state = "error told" if step.is_error and step.done else step.state
    said = f"{step.asked} → {step.preview}" if step.asked and step.preview else step.asked or step.preview
    return [
        str(step.step),
        f"{step.kind} {step.name}{mark}",
        state,
        tokens,
        cost + unknown,
        seconds(step.duration_s),
        str(step.attempts or ""),
        said,
    ]


def _totals(report: RunReport) -> str:
    totals = report.totals
    unknown = f", of it {usd(totals.unknown_usd)} unknown spend" if totals.unknown_usd else ""
    reserved = f", {usd(totals.reserved_usd)} reserved for calls in the air" if totals.reserved_usd else ""
    return (
        f"total: {totals.steps} steps, {totals.model_calls} model calls ({totals.attempts} attempts), {totals.tool_calls} tool calls, "
        f"{totals.usage.input_tokens} tokens in ({totals.usage.cached_input_tokens} cached), {totals.usage.output_tokens} out, "
        f"{usd(totals.cost_usd)} of {usd(totals.cost_limit_usd)}{unknown}{reserved}"
    )
