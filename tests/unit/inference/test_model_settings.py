"""models.yaml: what is wrong in it is named with file, field and remedy; what is right adds to the defaults."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from activities.inference import settings
from workflows.contracts.errors import DefinitionError


def written(tmp_path: Path, text: str, name: str = "models.yaml") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_without_a_file_both_providers_are_known_and_the_tiers_prefer_the_one_with_a_key():
    openai_first = settings.load([], {"OPENAI_API_KEY": "x", "ANTHROPIC_API_KEY": "y"})
    assert [model.partition(":")[0] for model in openai_first.tiers["smart"].models] == ["openai", "anthropic"]
    anthropic_first = settings.load([], {"ANTHROPIC_API_KEY": "y"})
    assert [model.partition(":")[0] for model in anthropic_first.tiers["fast"].models] == ["anthropic", "openai"]


def test_files_add_to_the_defaults_and_later_files_win(tmp_path: Path):
    first = written(
        tmp_path,
        """
providers:
  local: {dialect: openai, base_url: "${env:LOCAL_URL:-http://127.0.0.1:8000/v1}", prices: openai}
tiers:
  fast: local:llama
  cheap: [local:llama, "openai:gpt-5-mini"]
models:
  local:llama: {input_usd_per_million: 0.1, output_usd_per_million: 0.2, context_window_tokens: 8192}
""",
    )
    second = written(tmp_path, "tiers: {fast: 'openai:gpt-5-mini'}", "later.yaml")
    found = settings.load([first, second], {})
    assert found.tiers["fast"].models == ("openai:gpt-5-mini",)
    assert found.tiers["cheap"].models == ("local:llama", "openai:gpt-5-mini")
    assert "smart" in found.tiers
    assert found.providers["local"].base_url == "http://127.0.0.1:8000/v1"
    assert found.models["local:llama"].input_usd_per_million == Decimal("0.1")
    assert settings.load([first], {"LOCAL_URL": "http://other/v1"}).providers["local"].base_url == "http://other/v1"


@pytest.mark.parametrize("text", ["", "# nothing yet\n", "{}"])
def test_an_empty_file_changes_nothing(tmp_path: Path, text: str):
    assert settings.load([written(tmp_path, text)], {}) == settings.load([], {})


@pytest.mark.parametrize(
    ("text", "field", "remedy"),
    [
        ("providers: {local: {dialect: grpc}}", "field providers.local.dialect", "'openai' or 'anthropic'"),
        ("providers: {local: {base_url: http://x}}", "field providers.local.dialect", "required"),
        ("providers: {local: {dialect: openai, api_key: sk-1}}", "field providers.local.api_key", "not permitted"),
        ("providers: [openai]", "field providers", "dictionary"),
        ("tiers: {fast: []}", "field tiers.fast", "has no model: name at least one"),
        ("tiers: {fast: gpt-5-mini}", "tiers.fast: 'gpt-5-mini'", "must be PROVIDER:MODEL with a provider of anthropic, openai"),
        ("tiers: {fast: 'nobody:gpt-5'}", "tiers.fast: 'nobody:gpt-5'", "with a provider of anthropic, openai"),
        (
            "models: {openai:x: {input_usd_per_million: -1, output_usd_per_million: 1}}",
            "field models.openai:x.input_usd_per_million",
            "greater",
        ),
        ("models: {openai:x: {context_window_tokens: 12}}", "field models.openai:x.context_window_tokens", "greater than or equal to 256"),
        (
            "models: {openai:x: {input_usd_per_million: 1}}",
            "field models.openai:x",
            "both input_usd_per_million and output_usd_per_million",
        ),
        (
            "models: {openai:x: {cached_input_usd_per_million: 1}}",
            "field models.openai:x",
            "both input_usd_per_million and output_usd_per_million",
        ),
        ("model: {}", "field model", "not permitted"),
        ("- providers", "must be a mapping", "providers, tiers and models"),
        ("providers: {", "cannot be read as YAML", "line 1"),
        ("a: \x07", "cannot be read as YAML", "special characters"),
    ],
)
def test_a_mistake_is_named_with_file_field_and_remedy(tmp_path: Path, text: str, field: str, remedy: str):
    path = written(tmp_path, text)
    with pytest.raises(DefinitionError) as raised:
        settings.load([path], {})
    told = str(raised.value)
    assert told.startswith(str(path))
    assert field in told
    assert remedy in told


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(DefinitionError, match=r"missing\.yaml: cannot be read as YAML"):
        settings.load([tmp_path / "missing.yaml"], {})
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("tiers: {größe: x}".encode("latin-1"))
    with pytest.raises(DefinitionError, match=r"latin\.yaml: cannot be read as YAML"):
        settings.load([latin], {})


def test_a_key_in_the_file_is_refused_without_repeating_it(tmp_path: Path):
    key = "sk-proj-" + "Zx9Cv8Bn7Ml6" * 4
    with pytest.raises(DefinitionError) as raised:
        settings.load([written(tmp_path, f"providers: {{local: {{dialect: openai, api_key: {key}}}}}")], {})
    assert key not in str(raised.value)
