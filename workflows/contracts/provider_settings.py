"""What is set of providers: their keys, their models, and what may be asked of them."""

from __future__ import annotations

from decimal import Decimal
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from workflows.contracts.messages import Frozen


class Rates(Frozen):
    """What may be asked of a provider, over all workers together. What is not given is not limited."""

    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    """Input and output together."""
    input_tokens_per_minute: float | None = Field(default=None, gt=0)
    output_tokens_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_day: float | None = Field(default=None, gt=0)
    """Input and output together, by the UTC day."""
    concurrency: int | None = Field(default=None, gt=0)
    """Calls in the air at once."""
    headroom: float = Field(default=0.1, ge=0, lt=1)
    """The share of the rates that is not used, so that small differences between our clock and the provider's cost no refusal."""

    @property
    def any(self) -> bool:
        """Whether anything is limited."""
        return any(value is not None for name, value in self if name != "headroom")


class KeyEntry(Frozen):
    """One key of a provider: where its secret is read, never the secret itself."""

    name: str = Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$")
    env: str | None = None
    """The environment variable that holds it."""
    file: str | None = None
    """A file that holds it and nothing else; read again when it changes."""
    command: tuple[str, ...] | None = None
    """A program that prints it; run again every few minutes, and when the provider refuses the key."""
    weight: float = Field(default=1.0, gt=0)
    """Its part of the calls, as long as several keys have room."""
    limits: Rates = Rates()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.env, self.file, self.command)) != 1:
            raise ValueError(f"key {self.name!r} needs exactly one of env, file, command")
        return self


class ProviderEntry(Frozen):
    """One provider. Its keys are only ever references; a server without keys names none."""

    dialect: Literal["openai", "anthropic"]
    base_url: str | None = None
    """None: the SDK's own address; text may hold `${env:NAME}` or `${env:NAME:-default}`."""
    api_key_env: str | None = None
    """The short form of one key, read from this environment variable."""
    keys: tuple[KeyEntry, ...] = ()
    prices: str = ""
    """The provider under which genai-prices lists these models; the dialect's own when empty."""
    limits: Rates = Rates()
    """Those of the account: all keys and models together."""
    prompt_cache: bool = True
    """Ask for the provider's prompt cache where the dialect lets us ask."""
    batch_api: bool | None = None
    """Whether it has the dialect's Batch API; None: only the dialect's own server is taken to have it."""

    @field_validator("keys")
    @classmethod
    def _names_differ(cls, keys: tuple[KeyEntry, ...]) -> tuple[KeyEntry, ...]:
        names = [key.name for key in keys]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two keys are called {twice!r}: give one of them another name")
        return keys

    @model_validator(mode="after")
    def _short_or_long(self) -> Self:
        if self.api_key_env and self.keys:
            raise ValueError("give either api_key_env or keys: api_key_env is the short form of a single key")
        return self

    @property
    def price_provider(self) -> str:
        """Where to look prices up."""
        return self.prices or self.dialect

    @property
    def all_keys(self) -> tuple[KeyEntry, ...]:
        """The keys in their long form; empty for a server that wants none."""
        return self.keys or ((KeyEntry(name="default", env=self.api_key_env),) if self.api_key_env else ())


class ModelSettings(Frozen):
    """What overrides or completes the price table for one model."""

    context_window_tokens: int | None = Field(default=None, ge=256)
    input_usd_per_million: Decimal | None = Field(default=None, ge=0)
    cached_input_usd_per_million: Decimal | None = Field(default=None, ge=0)
    output_usd_per_million: Decimal | None = Field(default=None, ge=0)
    tools: bool = True
    """Whether it can call tools."""
    output_schema: bool = True
    """Whether it can be held to a JSON schema."""
    vision: bool = True
    """Whether it reads images."""
    limits: Rates = Rates()

    @model_validator(mode="after")
    def _prices_are_whole(self) -> Self:
        prices = (self.input_usd_per_million, self.output_usd_per_million)
        if None in prices and (prices != (None, None) or self.cached_input_usd_per_million is not None):
            raise ValueError("a price of one's own needs both input_usd_per_million and output_usd_per_million")
        return self

    @property
    def priced(self) -> bool:
        """Whether it has a price of its own."""
        return self.input_usd_per_million is not None
