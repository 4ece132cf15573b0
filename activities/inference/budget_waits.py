"""A call that a budget has no room for: whether it is refused, or waits, and how long."""

from __future__ import annotations

import random
from typing import Final

from state import budgets
from state.budgets import Refusal
from state.model_calls import Begun
from state.pool import Database
from telemetry import inference as telemetry
from workflows.contracts import policies
from workflows.contracts.errors import FailureClass, StepError
from workflows.contracts.inference import InferenceSettings
from workflows.contracts.steps import ModelCallRequest

LOOK_S: Final = 1.0
"""After how long a step looks first whether calls in the air have given room back."""
LOOK_AT_MOST_S: Final = 15.0
"""It looks less and less often, up to this."""
IN_THE_AIR_S: Final = policies.MODEL_CALL.start_to_close_s
"""How long it looks before a budget that refuses does refuse: whatever was in the air at first has ended by then."""


async def delay(database: Database, settings: InferenceSettings, step: ModelCallRequest, begun: Begun) -> StepError | None:
    """The wait that stands before a call that was not begun; None: it is refused.

    Room that is only reserved comes back when the calls in the air have cost less than their worst case, so every budget is waited for
    as long as that may be. What is spent for good is waited for where the budget says so.
    """
    spent = [refusal for refusal in begun.refusals if not refusal.in_the_air]
    patient = all(_waits(settings, refusal) for refusal in begun.refusals)
    if not begun.refusals or not all(_waits(settings, refusal) for refusal in spent):
        return None
    if not spent:
        return await _for_calls_in_the_air(database, step, begun.refusals[0], patient=patient)
    longest = max(spent, key=lambda refusal: refusal.turns_in_s or 0.0)
    wait_s = max(1.0, longest.turns_in_s or 0.0)
    await budgets.wait(database, step.run_id, step.step, longest.budget, wait_s)
    return StepError(
        f"delayed, about {wait_s:.0f} s: budget {longest.budget} has no room ({longest.dimension}) until it turns or is raised",
        failure_class=FailureClass.THROTTLED,
        retry_after_s=wait_s,
        code="budget",
        wakeable=True,
    )


async def begun_after(database: Database, step: ModelCallRequest) -> None:
    """The call has begun: it waits for no budget any more."""
    waited_s = await budgets.no_longer_waits(database, step.run_id, step.step)
    if waited_s is not None:
        telemetry.record_budget_wait(waited_s)


async def _for_calls_in_the_air(database: Database, step: ModelCallRequest, refusal: Refusal, *, patient: bool) -> StepError | None:
    waited_s = await budgets.wait(database, step.run_id, step.step, refusal.budget, LOOK_AT_MOST_S)
    if waited_s > IN_THE_AIR_S and not patient:
        await budgets.no_longer_waits(database, step.run_id, step.step)
        return None
    # A part by chance: those that were refused together must not come back together.
    wait_s = min(LOOK_AT_MOST_S, max(LOOK_S, waited_s / 2)) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads retries, keeps no secret
    whose = f"the money of run {refusal.budget}" if refusal.turns_in_s is None else f"budget {refusal.budget}"
    return StepError(
        f"delayed, about {wait_s:.0f} s: what is left of {whose} ({refusal.dimension}) is reserved by calls in the air",
        failure_class=FailureClass.THROTTLED,
        retry_after_s=wait_s,
        code="budget_in_the_air",
        exact=True,
    )


def _waits(settings: InferenceSettings, refusal: Refusal) -> bool:
    """Whether the budget is one to wait for; a run's own never is."""
    entry = settings.budgets.get(refusal.name)
    return refusal.turns_in_s is not None and entry is not None and entry.on_hard == "wait"
