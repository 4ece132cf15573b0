"""What a tool function asks for, read from its signature: the arguments a model gives, and the parts the worker gives."""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from workflows.contracts.errors import ArgumentsError, DefinitionError

PROBLEMS_SHOWN = 5
_SECTION = re.compile(r"^(Args|Arguments|Parameters|Params):\s*$")
_ENTRY = re.compile(r"^(\w+)(?:\s*\([^)]*\))?:\s*(.*)$")


@dataclass(frozen=True, slots=True)
class ProvidedMarker:
    """Marks a parameter that the worker fills in."""


@dataclass(frozen=True, slots=True)
class Signature:
    """A function's parameters, sorted by who gives them."""

    visible: Mapping[str, Any]
    """Parameters that the model fills in, with their annotations."""
    context: tuple[str, ...] = ()
    provided: Mapping[str, Any] = field(default_factory=dict)
    """Parameters that the worker fills in, with the type that is wanted."""
    takes_any: bool = False
    """The function has `**kwargs`."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """How a tool's JSON arguments become the function's keyword arguments."""

    model: type[BaseModel]
    parameters: Mapping[str, str]
    """Field of `model` → parameter; empty when one parameter takes the model whole."""
    whole: str | None = None

    def read(self, raw: str) -> dict[str, Any]:
        """The keyword arguments for the function; what the model left out is left to the function's own defaults.

        Raises:
            ArgumentsError: naming the fields that do not fit and what is wanted.
        """
        try:
            values = self.model.model_validate_json(raw.strip() or "{}")
        except ValidationError as error:
            raise ArgumentsError(_told(error, self.model)) from error
        except Exception as error:  # a validator of the tool's own model may raise anything
            raise ArgumentsError(f"the arguments do not fit: {type(error).__name__}: {error}. Send one JSON object that fits") from error
        if self.whole is not None:
            return {self.whole: values}
        given = values.model_fields_set
        return {parameter: getattr(values, name) for name, parameter in self.parameters.items() if name in given}

    def one(self, given: Mapping[str, Any], name: str) -> Any:
        """One of the arguments that `read` gave, by the name in the schema; its default when the model left it out, else None."""
        if self.whole is None and name in given:
            return given[name]
        for field_name, info in self.model.model_fields.items():
            if name == (info.alias or field_name):
                value = getattr(given[self.whole], field_name) if self.whole else info.get_default(call_default_factory=False)
                return None if value is PydanticUndefined else value
        return None

    def schema(self) -> dict[str, Any]:
        """The JSON schema of type object that the model is told."""
        schema: dict[str, Any] = without_titles(self.model.model_json_schema())
        return schema


def place(function: Callable[..., Any]) -> str:
    """`file:line` of a function, for error messages."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else repr(function)


def wrong(function: Callable[..., Any], where: str, problem: str, remedy: str) -> DefinitionError:
    """A DefinitionError in the one form that all definition mistakes have: place, field, problem, remedy."""
    return DefinitionError(f"{place(function)}: {getattr(function, '__name__', 'tool')}: {where}: {problem}. {remedy}")


def closest(name: str, known: Iterable[str]) -> str:
    """`did you mean …?` or the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"Did you mean `{close[0]}`?"
    return f"Known are: {', '.join(names)}" if names else "None are known"


def read_signature(function: Callable[..., Any], context_type: type, local_names: Mapping[str, Any] | None = None) -> Signature:
    """Sort a function's parameters into the model's, the context and what the worker provides.

    Raises:
        DefinitionError: a parameter has no annotation, one that cannot be resolved, or no name that a model could give.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise wrong(function, "return", "yields its results one by one", "Return one result; report progress by ToolContext.heartbeat")
    try:
        hints = typing.get_type_hints(function, localns=dict(local_names or {}), include_extras=True)
    except Exception as error:  # an annotation is code, and may fail in any way
        raise wrong(
            function, "annotations", f"cannot be resolved: {error}", "Import the type at run time, not under TYPE_CHECKING"
        ) from error
    visible: dict[str, Any] = {}
    context: list[str] = []
    provided: dict[str, Any] = {}
    takes_any = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
            continue
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY}:
            raise wrong(function, name, "is not given by name", "Declare each argument as an ordinary parameter")
        if name not in hints:
            raise wrong(function, name, "has no annotation", f"Write its type, as in `{name}: str`")
        hint = hints[name]
        if hint is context_type:
            context.append(name)
        elif (wanted := provided_type(hint)) is not None:
            provided[name] = wanted
        else:
            visible[name] = hint
    return Signature(visible, tuple(context), provided, takes_any)


def provided_type(hint: Any) -> Any | None:
    """T of `Provided[T]`, or None for any other annotation."""
    if get_origin(hint) is Annotated and any(isinstance(extra, ProvidedMarker) for extra in get_args(hint)[1:]):
        return get_args(hint)[0]
    return None


def read_arguments(function: Callable[..., Any], signature: Signature, described: Mapping[str, str]) -> Arguments:
    """The model that validates a tool's arguments; fields are named apart from parameters, so that `json` or `copy` may be one.

    Raises:
        DefinitionError: an annotation has no JSON schema.
    """
    if len(signature.visible) == 1:
        (name, hint), *_ = signature.visible.items()
        if isinstance(hint, type) and issubclass(hint, BaseModel):
            return Arguments(model=hint, parameters={}, whole=name)
    parameters = inspect.signature(function).parameters
    fields: dict[str, Any] = {}
    for index, (name, hint) in enumerate(signature.visible.items()):
        default = parameters[name].default
        if isinstance(default, FieldInfo):
            raise wrong(function, name, "has a Field as its default", f"Write `{name}: Annotated[int, Field(ge=1)] = 5`, with its own type")
        options: dict[str, Any] = {"alias": name}
        if name in described and not _is_described(hint):
            options["description"] = described[name]
        fields[f"argument_{index}"] = (hint, Field(... if default is inspect.Parameter.empty else default, **options))
    try:
        model = create_model(function.__name__, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
        model.model_json_schema()
    except PydanticUserError as error:
        problem = f"have no JSON schema: {str(error).splitlines()[0]}"
        raise wrong(function, "arguments", problem, "Use JSON-like types or models; mark what the worker gives as Provided[…]") from error
    return Arguments(model=model, parameters=dict(zip(fields, signature.visible, strict=True)))


def read_docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description, and what an `Args:` section says of each parameter."""
    kept: list[str] = []
    described: dict[str, str] = {}
    inside = False
    entry: str | None = None
    for line in inspect.cleandoc(function.__doc__ or "").splitlines():
        if _SECTION.match(line):
            inside = True
        elif inside and line and not line[0].isspace():
            inside = False
        if not inside:
            kept.append(line)
            continue
        found = _ENTRY.match(line.strip()) if _indent(line) <= 4 else None
        if found:
            entry = found[1]
            described[entry] = found[2].strip()
        elif entry and line.strip():
            described[entry] = f"{described[entry]} {line.strip()}".strip()
    return "\n".join(kept).strip(), described


def without_titles(schema: Any, *, names: bool = False) -> Any:
    """A schema without the titles that pydantic derives from names: they tell the model nothing and cost tokens in every call."""
    if isinstance(schema, list):
        return [without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {key: without_titles(value) for key, value in schema.items()}
    literal = {"default", "const", "enum", "examples"}
    return {
        key: value if key in literal else without_titles(value, names=key in {"properties", "$defs"})
        for key, value in schema.items()
        if key != "title"
    }


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_described(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(isinstance(extra, FieldInfo) and extra.description for extra in get_args(hint)[1:])


def _told(error: ValidationError, model: type[BaseModel]) -> str:
    """The problems of a validation as a model can act on them."""
    problems = error.errors(include_url=False, include_context=False)
    lines = [_problem(dict(problem), model) for problem in problems[:PROBLEMS_SHOWN]]
    if len(problems) > PROBLEMS_SHOWN:
        lines.append(f"and {len(problems) - PROBLEMS_SHOWN} more")
    return f"the arguments do not fit: {'; '.join(lines)}. Send one JSON object with {_wanted(model)}"


def _problem(problem: dict[str, Any], model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in problem["loc"]) or "arguments"
    if problem["type"] == "extra_forbidden":
        return f"{where}: no such argument. {closest(where, _field_names(model))}"
    if problem["type"] == "missing":
        return f"{where}: is missing"
    got = problem.get("input")
    shown = f" (got {got!r:.60})" if isinstance(got, str | int | float | bool | None) and problem["loc"] else ""
    return f"{where}: {problem['msg']}{shown}"


def _field_names(model: type[BaseModel]) -> list[str]:
    return [info.alias or name for name, info in model.model_fields.items()]


def _wanted(model: type[BaseModel]) -> str:
    wanted = [f"{info.alias or name}{' (required)' if info.is_required() else ''}" for name, info in list(model.model_fields.items())[:20]]
    return f"the fields {', '.join(wanted)}" if wanted else "no fields: {}"
