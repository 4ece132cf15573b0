"""Reads agents folders: definitions as YAML data, tools as decorated functions or HTTP definitions, and where models.yaml is."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activities.agents import documents, modules
from activities.agents.documents import Document
from workflows.contracts.agents import AgentDefinition, ToolKind, ToolSpec
from workflows.contracts.errors import DefinitionError
from workflows.contracts.tools import Provider, Tool, wrong_references

MODELS_FILE = "models.yaml"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Catalog:
    """All that the folders define."""

    definitions: Mapping[str, AgentDefinition] = field(default_factory=dict)
    tools: Mapping[str, Tool[..., Any]] = field(default_factory=dict)
    providers: tuple[Provider, ...] = ()
    model_files: tuple[Path, ...] = ()


def load(folders: Iterable[Path]) -> Catalog:
    """Read the folders together: agents of one may use tools and agents of another.

    Raises:
        DefinitionError: the first thing that is wrong; names file, line, field and remedy.
    """
    found = [_read_folder(Path(folder).resolve()) for folder in folders]
    tools, specs = _tools(found)
    agents = [document for one in found for document in one.agents]
    definitions: dict[str, AgentDefinition] = {}
    for document in agents:
        definition = _definition(document, specs)
        if definition.name in definitions:
            raise document.wrong(("name",), f"another agent is called {definition.name} too", "Give one of them another name")
        definitions[definition.name] = definition
    for document in agents:
        _check_neighbours(document, definitions[document.values["name"]], definitions)
    return Catalog(
        definitions=definitions,
        tools=tools,
        providers=tuple(provider for one in found for provider in one.code.providers),
        model_files=tuple(path for one in found for path in one.model_files),
    )


@dataclass(frozen=True)
class _Folder:
    agents: list[Document]
    http_tools: list[Document]
    code: modules.Found
    model_files: list[Path]


def yaml_files(folder: Path) -> list[Path]:
    """The YAML files that are read: of the folder itself, of `agents/` and of `tools/` in it."""
    places = (folder, folder / "agents", folder / "tools")
    return [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.suffix in SUFFIXES]


def _read_folder(folder: Path) -> _Folder:
    if not folder.is_dir():
        raise DefinitionError(f"{folder}: is no folder. Name a folder with agent definitions (`holdfast new FOLDER` makes one).")
    paths = yaml_files(folder)
    read = [documents.read(path) for path in paths if path.name != MODELS_FILE]
    return _Folder(
        agents=[document for document in read if "tool" not in document.values],
        http_tools=[document for document in read if "tool" in document.values],
        code=modules.load(folder),
        model_files=[path for path in paths if path.name == MODELS_FILE],
    )


def _tools(found: Sequence[_Folder]) -> tuple[dict[str, Tool[..., Any]], dict[str, ToolSpec]]:
    tools: dict[str, Tool[..., Any]] = {}
    specs: dict[str, ToolSpec] = {}
    for tool in (tool for one in found for tool in one.code.tools):
        if tool.spec.name in specs:
            raise DefinitionError(f"{tool!r}: another tool is called {tool.spec.name} too. Give one of them another name.")
        tools[tool.spec.name], specs[tool.spec.name] = tool, tool.spec
    for document in (document for one in found for document in one.http_tools):
        spec = _http_spec(document)
        if spec.name in specs:
            raise document.wrong(("tool",), f"another tool is called {spec.name} too", "Give one of them another name")
        specs[spec.name] = spec
    return tools, specs


def _http_spec(document: Document) -> ToolSpec:
    values = {name: value for name, value in document.values.items() if name != "tool"}
    spec = documents.validate(document, ToolSpec, {**values, "name": document.values["tool"], "kind": ToolKind.HTTP})
    if spec.http is None:
        raise document.wrong(("tool",), "an HTTP tool needs an http part", "Add http: {method: …, url: …}")
    for name, problem, remedy in wrong_references(spec):
        raise document.wrong((name,), problem, remedy)
    return spec


def _definition(document: Document, specs: Mapping[str, ToolSpec]) -> AgentDefinition:
    values = dict(document.values)
    approvals = values.pop("approvals", {})
    if not isinstance(approvals, dict):
        raise document.wrong(("approvals",), "must map tools to conditions", "Write approvals: {refund: amount_usd > 50}")
    names = values.get("tools", [])
    if not isinstance(names, list):
        raise document.wrong(("tools",), "must be a list of tool names", "Write tools: [find_order]")
    values["tools"] = [_spec(document, number, name, specs, approvals) for number, name in enumerate(names)]
    for name in approvals:
        if name not in names:
            raise document.wrong(("approvals", name), "is none of this agent's tools", _closest(str(name), names))
    return documents.validate(document, AgentDefinition, values)


def _spec(document: Document, number: int, name: Any, specs: Mapping[str, ToolSpec], approvals: Mapping[str, Any]) -> ToolSpec:
    found = specs.get(name) if isinstance(name, str) else None
    if found is None:
        raise document.wrong(("tools", number), f"there is no tool {name!r}", _closest(str(name), specs))
    if name not in approvals:
        return found
    changed = found.model_copy(update={"approve": approvals[name]})
    for _, problem, remedy in wrong_references(changed):
        raise document.wrong(("approvals", name), problem, remedy)
    return changed


def _check_neighbours(document: Document, definition: AgentDefinition, definitions: Mapping[str, AgentDefinition]) -> None:
    for field_name, names in (("agents", definition.agents), ("handoffs", definition.handoffs)):
        for number, name in enumerate(names):
            if name not in definitions:
                raise document.wrong((field_name, number), f"there is no agent {name!r}", _closest(name, definitions))
    clash = {spec.name for spec in definition.tools} & set(definition.agents)
    if clash:
        raise document.wrong(("agents",), f"{min(clash)} is the name of a tool too", "Give one of them another name")


def _closest(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"Did you mean {close[0]}" if close else f"Known are {', '.join(names) or 'none'}"
