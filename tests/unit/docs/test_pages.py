"""What the pages show is true: links lead somewhere, blocks can be read, commands and settings exist."""

from __future__ import annotations

import ast
import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from activities.agents import folders
from activities.inference import settings as inference_settings
from activities.inference.routing import Router
from client.command_line.main import build

from . import pages
from .pages import ROOT, Block

LANGUAGES = {"", "ini", "json", "mermaid", "python", "sh", "sql", "yaml"}
OURS = ("holdfast", "testkit", "workflows", "activities", "client", "state", "telemetry", "devstack")
SOURCES = ("*.py", "*.yml", "*.yaml", "*.sh", "*.go", "*.toml", "*.example", "*.service", "Makefile", "Dockerfile")
TEMPORALS_OWN = {"TEMPORAL_API_KEY", "TEMPORAL_TLS", "TEMPORAL_TLS_CLIENT_CERT_PATH"}
"""Read by Temporal's own environment configuration."""
EXAMPLE_NAMES = {"CARRIER_TOKEN", "OWN_MODELS_URL", "OWN_MODELS_KEY", "LOCAL_API_KEY"}


@pytest.fixture(scope="module")
def sources() -> str:
    listed = subprocess.run(["git", "ls-files", *SOURCES], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in listed.stdout.split() if (ROOT / name).is_file())


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_a_heading_that_exist(page: Path) -> None:
    for target in pages.links(page):
        place, _, anchor = target.partition("#")
        linked = (page.parent / place).resolve() if place else page
        assert linked.exists(), f"{target} leads nowhere"
        if anchor:
            assert anchor in pages.anchors(linked), f"{target}: no such heading"


def test_every_page_of_the_documentation_is_in_its_index() -> None:
    index = ROOT / "docs/README.md"
    linked = {(index.parent / target.partition("#")[0]).resolve() for target in pages.links(index)}
    missing = {page for page in pages.pages() if ROOT / "docs" in page.parents} - linked - {index}
    assert not missing


@pytest.mark.parametrize("block", pages.blocks(), ids=str)
def test_every_block_can_be_read(block: Block) -> None:
    assert block.language in LANGUAGES
    match block.language:
        case "python":
            compile(block.text, str(block), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT | ast.PyCF_ONLY_AST)
        case "json":
            json.loads(block.text)
        case "yaml":
            assert list(yaml.safe_load_all(block.text))


@pytest.mark.parametrize("block", pages.blocks("python"), ids=str)
def test_every_name_that_a_block_imports_from_us_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] in OURS:
            module = importlib.import_module(node.module or "")
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


def agent_pages() -> list[Path]:
    """Pages whose blocks make an agents folder: those with a definition that is a file."""
    named = [block for block in pages.blocks("yaml") if block.file_name and "/docs/" in str(block.page)]
    return sorted({block.page for block in named})


@pytest.mark.parametrize("page", agent_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_agents_and_tools_of_a_page_can_be_served(page: Path, tmp_path: Path) -> None:
    files = [block for block in pages.blocks("yaml", "python") if block.page == page and block.file_name]
    if page.name == "first-agent.md":
        from client.command_line.scaffold import write_template

        write_template(tmp_path)
    folder = tmp_path / "agents" if page.name == "first-agent.md" else tmp_path
    for block in files:
        path = tmp_path / (block.file_name or "")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text, encoding="utf-8")
        if path.name == "models.yaml":
            assert_models_can_be_called(path)
    catalog = folders.load([folder])
    assert catalog.definitions or page.name in {"use-a-model-provider.md", "models-yaml.md", "limits-and-budgets.md"}


def assert_models_can_be_called(path: Path) -> None:
    settings = inference_settings.load([path], {})
    for tier in yaml.safe_load(path.read_text(encoding="utf-8"))["tiers"]:
        assert Router(settings).candidates(tier)


def test_every_make_target_that_is_named_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages.pages())
    named = set(re.findall(r"^\s*make ([a-z]+)", text, re.MULTILINE)) | set(re.findall(r"`make ([a-z]+)", text))
    assert {"demo", "test"} <= named
    assert named <= targets


def commands() -> list[tuple[str, str]]:
    """(where, command line) for every call of `holdfast` in a shell block or between backticks."""
    found = []
    for block in pages.blocks("sh"):
        lines = [line.strip() for line in block.text.replace("\\\n", " ").splitlines()]
        found += [(str(block), line) for line in lines if line.startswith("holdfast ")]
    for page in pages.pages():
        spans = re.findall(r"`(holdfast [^`]+)`", page.read_text(encoding="utf-8"))
        found += [(str(page.relative_to(ROOT)), span) for span in spans]
    return sorted(set(found))


@pytest.mark.parametrize(("where", "line"), commands(), ids=lambda value: value)
def test_every_command_that_is_shown_is_understood(where: str, line: str) -> None:
    words = shlex.split(line, comments=True)[1:]
    words = words[: words.index("|")] if "|" in words else words
    app = build()
    if "COMMAND" in words:
        return
    if any(set(word) <= set(".…") for word in words) or len(words) == 1:
        assert words[0] in app or words[0].startswith("--"), f"{where}: no command {words[0]}"
        return
    app.parse_args(words, exit_on_error=False, print_error=False)


VARIABLE = re.compile(r"\b(?:(?:HOLDFAST|TEMPORAL|OPENAI|ANTHROPIC|PG|XDG|SHOP)_?[A-Z][A-Z_]*|[A-Z][A-Z_]*_(?:KEY|URL|TOKEN|PACKAGES))\b")


def test_every_environment_variable_that_is_named_is_read_somewhere(sources: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages.pages())
    named = {name for name in VARIABLE.findall(text) if not name.endswith("_")}
    read = set(re.findall(r"[A-Z][A-Z_]+", sources))
    unknown = named - read - TEMPORALS_OWN - EXAMPLE_NAMES - {"PGPASSFILE"}
    assert not unknown


def test_every_variable_of_ours_is_on_the_page_of_settings(sources: str) -> None:
    page = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    read = set(re.findall(r"""["'{]\s*(HOLDFAST_[A-Z_]+)""", sources))
    assert read
    assert read <= set(re.findall(r"HOLDFAST_[A-Z_]+", page))


MACHINE = re.compile(r"(?<![\w.-])/(work|root|tmp)/\w|\b(py[p]i\.org|pythonhosted\.org|proxy\.golang|ghcr\.io|docker\.io|quay\.io|npm[j]s)")
LOCKS = {"uv.lock", "devstack/server/go.sum"}
"""Files that name public registries by their nature."""


def test_no_file_names_a_path_of_somebodys_machine_or_a_registry() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in set(listed.stdout.split()) - LOCKS:
        path = ROOT / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{name}: {match[0]}" for match in MACHINE.finditer(text)]
    assert not found
