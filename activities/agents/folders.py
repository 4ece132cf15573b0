"""Reads agents folders: definitions as YAML data, tools as decorated functions or HTTP definitions, and where models.yaml is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from activities.agents import approvals as people_decide
from activities.agents import documents, hook_check, http_tools, modules, people_file, schemas
from activities.agents.documents import Document, closest
from activities.agents.people_file import PEOPLE_FILE
from activities.inference.turns import ASK_PERSON, HANDOFF_PREFIX
from workflows.contracts.agents import AgentDefinition, ToolSpec
from workflows.contracts.errors import DefinitionError
from workflows.contracts.hooks import Hook
from workflows.contracts.people_settings import PeopleSettings
from workflows.contracts.signatures import place, wrong
from workflows.contracts.tools import Provider, Tool

MODELS_FILE = "models.yaml"
SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Catalog:
    """All that the folders define."""

    definitions: Mapping[str, AgentDefinition] = field(default_factory=dict)
    tools: Mapping[str, Tool[..., Any]] = field(default_factory=dict)
    providers: tuple[Provider, ...] = ()
    model_files: tuple[Path, ...] = ()
    people: PeopleSettings = PeopleSettings()
    hooks: tuple[Hook, ...] = ()


def load(folders: Iterable[Path]) -> Catalog:
    """Read the folders together: agents of one may use tools and agents of another. A folder named twice is read once.

    Raises:
        DefinitionError: the first thing that is wrong; names file, line, field and remedy.
    """
    found = [_read_folder(folder) for folder in dict.fromkeys(Path(folder).resolve() for folder in folders)]
    tools, specs = _tools(found)
    providers = _providers(found, tools.values())
    hooks = hook_check.checked((hook for one in found for hook in one.code.hooks), specs, {provider.wanted for provider in providers})
    people = people_file.load(path for one in found for path in one.people_files)
    agents = [document for one in found for document in one.agents]
    definitions: dict[str, AgentDefinition] = {}
    for document in agents:
        definition = _definition(document, specs)
        people_file.check(document, definition, people)
        if definition.name in definitions:
            raise document.wrong(("name",), f"another agent is called {definition.name} too", "Give one of them another name")
        definitions[definition.name] = definition
    for document in agents:
        _check_neighbours(document, definitions[document.values["name"]], definitions)
    return Catalog(
        definitions=definitions,
        tools=tools,
        providers=providers,
        model_files=tuple(path for one in found for path in one.model_files),
        people=people,
        hooks=hooks,
    )


@dataclass(frozen=True)
class _Folder:
    agents: list[Document]
    http_tools: list[Document]
    code: modules.Found
    model_files: list[Path]
    people_files: list[Path]


def yaml_files(folder: Path) -> list[Path]:
    """The YAML files that are read: of the folder itself, of `agents/` and of `tools/` in it."""
    places = (folder, folder / "agents", folder / "tools")
    return [path for place in places if place.is_dir() for path in sorted(place.iterdir()) if path.suffix in SUFFIXES]


def _read_folder(folder: Path) -> _Folder:
    if not folder.is_dir():
        raise DefinitionError(f"{folder}: is no folder. Name a folder with agent definitions (`holdfast new FOLDER` makes one).")
    paths = yaml_files(folder)
    read = [documents.read(path) for path in paths if path.name not in (MODELS_FILE, PEOPLE_FILE)]
    return _Folder(
        agents=[document for document in read if "tool" not in document.values],
        http_tools=[document for document in read if "tool" in document.values],
        code=modules.load(folder),
        model_files=[path for path in paths if path.name == MODELS_FILE],
        people_files=[path for path in paths if path.name == PEOPLE_FILE],
    )


def _tools(found: Sequence[_Folder]) -> tuple[dict[str, Tool[..., Any]], dict[str, ToolSpec]]:
    tools: dict[str, Tool[..., Any]] = {}
    specs: dict[str, ToolSpec] = {}
    for tool in (tool for one in found for tool in one.code.tools):
        if tool.spec.name in specs:
            other = place(tools[tool.spec.name].function)
            raise wrong(tool.function, "name", f"another tool is called {tool.spec.name} too, at {other}", "Give one of them another name")
        tools[tool.spec.name], specs[tool.spec.name] = tool, tool.spec
    for document in (document for one in found for document in one.http_tools):
        spec = http_tools.read(document)
        if spec.name in specs:
            raise document.wrong(("tool",), f"another tool is called {spec.name} too", "Give one of them another name")
        specs[spec.name] = spec
    return tools, specs


def _providers(found: Sequence[_Folder], tools: Iterable[Tool[..., Any]]) -> tuple[Provider, ...]:
    """What the folders provide: one function a type, and one for each type that a tool wants."""
    by_type: dict[Any, Provider] = {}
    for provider in (provider for one in found for provider in one.code.providers):
        other = by_type.setdefault(provider.wanted, provider)
        if other is not provider:
            name = _type_name(provider.wanted)
            raise DefinitionError(f"{provider.place}: {name} is provided at {other.place} already. Keep one of the two @provide functions.")
    for tool in tools:
        for wanted in tool.wanted:
            if wanted not in by_type:
                name = _type_name(wanted)
                raise wrong(
                    tool.function, "parameters", f"wants a {name}, which nobody provides", "Write an @provide function that yields one"
                )
    return tuple(by_type.values())


def _type_name(wanted: Any) -> str:
    return getattr(wanted, "__qualname__", str(wanted))


def _definition(document: Document, specs: Mapping[str, ToolSpec]) -> AgentDefinition:
    values = dict(document.values)
    if isinstance(values.get("version"), int | float):
        values["version"] = document.written[("version",)]
    approvals = values.pop("approvals", None) or {}
    if not isinstance(approvals, dict):
        raise document.wrong(("approvals",), "must map tools to conditions", "Write approvals: {refund: amount_usd > 50}")
    names = _names(document, "tools")
    values["tools"] = [_spec(document, number, name, specs, approvals) for number, name in enumerate(names)]
    for name in approvals:
        if name not in names:
            raise document.wrong(("approvals", name), "is none of this agent's tools", closest(str(name), names))
    values |= {field_name: _names(document, field_name) for field_name in ("agents", "handoffs")}
    values["ask_people"] = people_decide.ask_people(document)
    definition = documents.validate(document, AgentDefinition, values)
    if definition.output_schema is not None:
        schemas.check(document, ("output_schema",), definition.output_schema)
    return definition


def _names(document: Document, field_name: str) -> list[str]:
    """A field that lists names; a field without a value lists none."""
    names = document.values.get(field_name) or []
    if not isinstance(names, list):
        raise document.wrong((field_name,), "must be a list of names", f"Write {field_name}: [one, another]")
    for number, name in enumerate(names):
        if not isinstance(name, str):
            raise document.wrong((field_name, number), f"{name!r} is no name", f"Write {field_name}: [one, another]")
        if name in names[:number]:
            raise document.wrong((field_name, number), f"{name} stands twice", "Keep one of them")
    return names


def _spec(document: Document, number: int, name: str, specs: Mapping[str, ToolSpec], approvals: Mapping[str, Any]) -> ToolSpec:
    found = specs.get(name)
    if found is None:
        raise document.wrong(("tools", number), f"there is no tool {name!r}", closest(name, specs))
    if name not in approvals:
        return found
    return people_decide.approved(document, found, approvals[name])


def _check_neighbours(document: Document, definition: AgentDefinition, definitions: Mapping[str, AgentDefinition]) -> None:
    for field_name, names in (("agents", definition.agents), ("handoffs", definition.handoffs)):
        for number, name in enumerate(names):
            if name not in definitions:
                raise document.wrong((field_name, number), f"there is no agent {name!r}", closest(name, definitions))
    tools = {spec.name for spec in definition.tools}
    if definition.ask_people is not None and ASK_PERSON in tools | set(definition.agents):
        raise document.wrong(("ask_people",), f"the model would be shown two tools called {ASK_PERSON}", "Give the other another name")
    offered = {"agents": {name: name for name in definition.agents}, "handoffs": {HANDOFF_PREFIX + n: n for n in definition.handoffs}}
    for field_name, shown in offered.items():
        clash = min(tools & set(shown), default=None)
        if clash is not None:
            place = (field_name, document.values[field_name].index(shown[clash]))
            raise document.wrong(place, f"the model would be shown two tools called {clash}", "Give one of them another name")
