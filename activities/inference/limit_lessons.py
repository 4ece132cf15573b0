"""What answers teach about the size of the next ones: gathered here, handed in with the sign of life, shared by all workers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from activities.inference.buckets import Alternative
from activities.inference.demands import Learned
from state.limits import Lesson
from workflows.contracts.messages import Usage


@dataclass(slots=True)
class _Sum:
    factor: float = 0.0
    factors: int = 0
    output: float = 0.0
    deviation: float = 0.0
    samples: int = 0


class Lessons:
    """The latest shared lessons, and this worker's since it last handed in."""

    def __init__(self) -> None:
        self._shared: dict[str, Learned] = {}
        self._new: dict[str, _Sum] = {}

    def of(self, model: str) -> Learned:
        """What is known of PROVIDER:MODEL."""
        return self._shared.get(model) or Learned()

    def learn(self, alternative: Alternative, used: Usage) -> None:
        """Count one answer."""
        model = alternative.model or alternative.label.partition(" by ")[0]
        total = self._new.setdefault(model, _Sum())
        if alternative.estimate is not None and alternative.estimate.input_tokens > 0:
            total.factor += used.input_tokens / alternative.estimate.input_tokens
            total.factors += 1
        total.output += used.output_tokens
        total.deviation += abs(used.output_tokens - (self.of(model).output_tokens or used.output_tokens))
        total.samples += 1

    def hand_in(self) -> list[Lesson]:
        """This worker's lessons, once. What an outage loses of them is learned again."""
        new, self._new = self._new, {}
        return [
            Lesson(
                model,
                total.factor / total.factors if total.factors else self.of(model).input_factor,
                total.output / total.samples,
                total.deviation / total.samples,
                total.samples,
            )
            for model, total in new.items()
        ]

    def take(self, shared: Mapping[str, Lesson]) -> None:
        """Know what all workers know."""
        self._shared = {
            model: Learned(lesson.input_factor, lesson.output_tokens, lesson.output_deviation, lesson.samples)
            for model, lesson in shared.items()
        }
