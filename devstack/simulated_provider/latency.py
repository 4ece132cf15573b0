"""How long the simulated model takes."""

from __future__ import annotations

from random import Random

from pydantic import Field

from workflows.contracts.messages import Frozen


class Latency(Frozen):
    """Seconds until the first token and per token after it; `jitter` is the share by which each call may differ."""

    first_token_s: float = Field(default=0.0, ge=0)
    per_token_s: float = Field(default=0.0, ge=0)
    jitter: float = Field(default=0.0, ge=0, le=1)

    def draw(self, random: Random) -> Latency:
        """The latency of one call, without jitter."""
        if not self.jitter:
            return self
        factor = 1 + random.uniform(-self.jitter, self.jitter)
        return Latency(first_token_s=self.first_token_s * factor, per_token_s=self.per_token_s * factor)
