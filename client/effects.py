"""What tools did: the effect ledger read, and a person's word on what nobody knows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from client.backend import Backend
from client.orders import DEFAULT_BY
from state import effect_lists, effects
from state.effect_lists import EffectFilter, EffectRuling, ListedEffect
from workflows.contracts.errors import InvalidInputError, RunStateError

LIST_LIMIT: Final = 50
_MANY: Final = 100


@dataclass(frozen=True, slots=True)
class EffectReport:
    """One effect, and what people ruled of it."""

    effect: ListedEffect
    rulings: tuple[EffectRuling, ...]


class Effects:
    """`Orchestrator.effects`. A run that is parked over one goes on by a redrive; this is for those whose run has ended."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def list(
        self,
        *,
        run_id: str | None = None,
        tool: str | None = None,
        tenant: str | None = None,
        unknown: bool = False,
        limit: int = LIST_LIMIT,
    ) -> tuple[ListedEffect, ...]:
        """Effects, newest first; undoing one is one too, of the tool NAME.undo.

        Args:
            run_id: those of this run and its sub-runs.
            tool: those of this tool.
            tenant: those of this tenant.
            unknown: only those whose outcome a person must find out.
            limit: how many at most.
        """
        wanted = EffectFilter(tenant=tenant, run_id=run_id, tool=tool, unknown=unknown)
        return tuple(await effect_lists.find(self._backend.database, wanted, limit=max(1, limit)))

    async def show(self, ref: str, *, tool: str | None = None, tenant: str | None = None) -> EffectReport:
        """One effect with all that people ruled of it.

        Args:
            ref: its key, or RUN:STEP.
            tool: needed where several tools have the key.
            tenant: needed where several tenants have it.

        Raises:
            InvalidInputError: there is none, or there are several.
        """
        return await self._report(await self._one(ref, tool, tenant, unknown=False))

    async def rule(
        self,
        ref: str,
        ruling: Literal["done", "not_done"],
        *,
        result: str = "",
        reason: str = "",
        tool: str | None = None,
        tenant: str | None = None,
        by: str = DEFAULT_BY,
    ) -> EffectReport:
        """Enter what a person found out of an effect of unknown outcome; `effect_rulings` keeps who said so.

        Args:
            ref: its key, or RUN:STEP.
            ruling: `done` gives `result` to whoever asks for the effect next; `not_done` lets it be done.
            result: what it gave.
            reason: how that was found out.
            tool: needed where several tools have the key. For the undoing of an effect, NAME.undo.
            tenant: needed where several tenants have it.
            by: who says so.

        Raises:
            InvalidInputError: there is no such effect of unknown outcome, or there are several.
            RunStateError: somebody else has ruled on it in the meantime.
        """
        if ruling not in ("done", "not_done"):
            raise InvalidInputError(f"A ruling is done or not_done, not {ruling!r}.")
        if result and ruling == "not_done":
            raise InvalidInputError("What was not done has no result: leave it out, or rule done.")
        found = await self._one(ref, tool, tenant, unknown=True)
        ruled = await effects.rule(
            self._backend.database,
            tenant=found.tenant,
            tool=found.tool,
            key=found.key,
            ruling=ruling,
            by=by,
            reason=reason,
            result=result or "A person has found out that it was done.",
        )
        if not ruled:
            raise RunStateError(f"Somebody has ruled on {found.key} of {found.tool} in the meantime: `holdfast effects show` tells what.")
        return await self._report(await self._one(found.key, found.tool, found.tenant, unknown=False))

    async def _report(self, effect: ListedEffect) -> EffectReport:
        ruled = await effect_lists.rulings(self._backend.database, effect.tenant, effect.tool, effect.key)
        return EffectReport(effect, tuple(ruled))

    async def _one(self, ref: str, tool: str | None, tenant: str | None, *, unknown: bool) -> ListedEffect:
        wanted = EffectFilter(tenant=tenant, tool=tool, unknown=unknown, ref=ref)
        found = await effect_lists.find(self._backend.database, wanted, limit=_MANY)
        if len(found) == 1:
            return found[0]
        if not found:
            which = "effect of unknown outcome" if unknown else "effect"
            lists = "holdfast effects list --unknown" if unknown else "holdfast effects list"
            raise InvalidInputError(f"There is no {which} with the key or the step {ref!r}: `{lists}` tells what there is.")
        names = sorted({f"{each.tool} of tenant {each.tenant}, key {each.key}" for each in found})
        raise InvalidInputError(f"{ref!r} names several effects: {'; '.join(names[:5])}. Say which by the key, the tool and the tenant.")
