"""Which run, step, agent and tenant the code that runs now works for; every log line and every span says it."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any, Final

from telemetry import names

_NOTHING: Final[Mapping[str, Any]] = {}
_bound: ContextVar[Mapping[str, Any]] = ContextVar("holdfast_bound", default=_NOTHING)


class RunBinding:
    """A `with` block whose log lines and spans carry the given fields; made by `bind_run`."""

    __slots__ = ("_fields", "_token")

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields
        self._token: Token[Mapping[str, Any]] | None = None

    @property
    def agent(self) -> str:
        """The agent that this block binds, or nothing."""
        return str(self._fields.get(names.LOG_AGENT, ""))

    def __enter__(self) -> RunBinding:
        self._token = _bound.set({**_bound.get(), **self._fields})
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None) -> None:
        if self._token is None:
            return
        try:
            _bound.reset(self._token)
        except ValueError:
            # A workflow that left the worker's cache is closed in another context, where there is nothing to reset.
            self._token = None


def bind_run(*, run_id: str | None = None, step: int | None = None, agent: str | None = None, tenant: str | None = None) -> RunBinding:
    """Carry these on every log line and span of a `with` block; what is None is inherited from the block around it."""
    given = ((names.LOG_RUN, run_id), (names.LOG_STEP, step), (names.LOG_AGENT, agent), (names.LOG_TENANT, tenant))
    return RunBinding({name: value for name, value in given if value is not None})


def bound() -> Mapping[str, Any]:
    """The fields that are bound now, under their log names."""
    return _bound.get()
