"""How a run looks in the Temporal Web UI: search attributes, summaries and Markdown details that a stranger can read."""

from __future__ import annotations

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from workflows.contracts import names
from workflows.contracts.previews import one_line
from workflows.contracts.runs import Approval, Parked, RunInput, RunStatus, RunView

AGENT_NAME = SearchAttributeKey.for_keyword(names.AGENT_NAME)
AGENT_STATUS = SearchAttributeKey.for_keyword(names.AGENT_STATUS)
AGENT_MODEL = SearchAttributeKey.for_keyword(names.AGENT_MODEL)
AGENT_USER = SearchAttributeKey.for_keyword(names.AGENT_USER)
TENANT = SearchAttributeKey.for_keyword(names.TENANT)
COST_USD = SearchAttributeKey.for_float(names.COST_USD)
FAILURE_CLASS = SearchAttributeKey.for_keyword(names.FAILURE_CLASS)
WAITING_SINCE = SearchAttributeKey.for_datetime(names.WAITING_SINCE)


def search_attributes(given: RunInput) -> TypedSearchAttributes:
    """What a run can be found by from its first moment."""
    pairs: list[SearchAttributePair[str]] = [
        SearchAttributePair(AGENT_NAME, given.agent.name),
        SearchAttributePair(AGENT_STATUS, RunStatus.RUNNING.value),
        SearchAttributePair(AGENT_MODEL, given.agent.model),
        SearchAttributePair(TENANT, given.tenant),
    ]
    if given.user is not None:
        pairs.append(SearchAttributePair(AGENT_USER, given.user))
    return TypedSearchAttributes(pairs)


def static_summary(given: RunInput, preview: str) -> str:
    """One line for the list of runs."""
    return f"{given.agent.name}: {one_line(preview)}" if preview else given.agent.name


def static_details(given: RunInput) -> str:
    """Who runs what for whom, in Markdown."""
    lines = [
        f"**Agent** {given.agent.name}, version {given.agent.version}, definition `{given.agent.definition_hash[:12]}`",
        f"**Model** {given.agent.model}",
        f"**Tenant** {given.tenant}" + (f", user {given.user}" if given.user else ""),
        f"**Limits** {given.agent.limits.steps} steps, {given.agent.limits.cost_usd} USD, {given.agent.limits.time_s:g} s",
    ]
    if given.parent_run_id:
        lines.append(f"**Part of** run `{given.parent_run_id}`")
    if given.origin:
        lines.append(f"**Origin** {given.origin}")
    return "\n\n".join(lines)


def current_details(view: RunView) -> str:
    """What the run does now, what it has cost, and what it waits for, in Markdown."""
    totals = view.totals
    cost = f"{totals.cost_usd:.4f} USD" + (f", of it {totals.unknown_usd:.4f} USD unknown spend" if totals.unknown_usd else "")
    lines = [
        f"**{view.status.value.replace('_', ' ').capitalize()}** at step {view.step}: {view.doing}",
        f"**So far** {totals.calls} model calls, {totals.usage.input_tokens} tokens in, {totals.usage.output_tokens} out, {cost}",
        f"**Model** {view.model}",
    ]
    if view.delayed_s is not None:
        lines.append(f"**Delayed**, about {view.delayed_s:.0f} s; it goes on by itself")
    if totals.downgraded or totals.cached:
        lines.append(f"**Of these** {totals.downgraded} answered by a lower tier, {totals.cached} from the cache")
    lines += [_question(asked) for asked in view.approvals]
    lines += [_letter(parked) for parked in view.dead_letters]
    return "\n\n".join(lines)


def _question(asked: Approval) -> str:
    wanted = {"approval": "a yes or no to", "question": "an answer to", "result": "a yes to the result of"}[asked.kind]
    parts = [f"**Waits for {wanted}** `{asked.tool}` {asked.preview} (call `{asked.call_id}`)"]
    if asked.reason:
        parts.append(f"because {asked.reason}")
    if asked.by:
        parts.append("asked of " + ", ".join(asked.by))
    if asked.quorum > 1:
        parts.append(f"{len(asked.yes)} of {asked.quorum} said yes")
    if asked.until:
        parts.append(f"until {asked.until:%Y-%m-%d %H:%M} UTC")
    signal = "`answer`" if asked.kind == "question" else "`approve` or `reject`"
    return "; ".join(parts) + f'. Signal {signal}: `{{"call_id": "{asked.call_id}", "by": "you"}}`'


def _letter(parked: Parked) -> str:
    return (
        f"**Parked** {parked.what}, {parked.failure_class.value}: {parked.cause}\n\n"
        'Signal `redrive` goes on from this step: `{"action": "retry"}`, `"skip"` or `"abort"`.'
    )
