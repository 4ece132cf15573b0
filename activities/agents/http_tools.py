"""HTTP tools from their YAML definitions: whatever would only show at the first call is refused here."""

from __future__ import annotations

import re

from activities.agents import documents, schemas
from activities.agents.documents import Document
from activities.tools.http import PLACE, SECRET, wrong_url
from workflows.contracts.agents import HttpCall, ToolKind, ToolSpec
from workflows.contracts.redaction import is_secret_name, redact
from workflows.contracts.tools import wrong_references

_UNREAD = re.compile(r"\$\{|\$[A-Za-z_]")


def read(document: Document) -> ToolSpec:
    """The tool that a document with the field `tool` defines.

    Raises:
        DefinitionError: the first thing that is wrong, with file, line, field and remedy.
    """
    values = {name: value for name, value in document.values.items() if name != "tool"}
    for name in ("name", "kind"):
        if name in values:
            raise document.wrong((name,), "is not known", "The field `tool` is the tool's name")
    if "undo" in values:
        raise document.wrong(("undo",), "an HTTP tool cannot be undone yet", "Write the tool in Python, with @tool(undo=…)")
    spec = documents.validate(document, ToolSpec, {**values, "name": document.values["tool"], "kind": ToolKind.HTTP})
    if spec.http is None:
        raise document.wrong(("tool",), "an HTTP tool needs an http part", "Add http: {method: …, url: …}")
    if spec.http.method != "GET" and "effect" not in values:
        problem = f"{spec.http.method} usually changes something, and no effect is given"
        raise document.wrong(("http", "method"), problem, "Add effect: once, idempotent, or pure if nothing changes")
    for name, problem, remedy in wrong_references(spec):
        raise document.wrong((name,), problem, remedy)
    schemas.check_parameters(document, ("parameters",), spec.parameters)
    _check_url(document, spec, spec.http)
    for name, value in spec.http.headers.items():
        _check_header(document, name, value)
    return spec


def _check_url(document: Document, spec: ToolSpec, call: HttpCall) -> None:
    location = ("http", "url")
    problem = wrong_url(call.url)
    if problem is not None:
        raise document.wrong(location, problem, "Write it like https://shop.example/orders/{order_id}")
    if redact(call.url) != call.url:
        raise document.wrong(location, "holds a secret", "Secrets go into a header, as ${env:NAME}: definitions are stored")
    properties = spec.parameters.get("properties", {})
    for name in PLACE.findall(call.url):
        if name not in properties:
            raise document.wrong(location, f"no argument is called {name}", documents.closest(name, properties))
        if name not in spec.parameters.get("required", ()):
            raise document.wrong(location, f"the argument {name} may be left out", f"Add {name} to parameters.required")


def _check_header(document: Document, name: str, value: str) -> None:
    location = ("http", "headers", name)
    if _UNREAD.search(SECRET.sub("", value)):
        raise document.wrong(location, "has a place that cannot be read", "Write ${env:NAME}, with the variable's name")
    line = f"{name}: {value}"
    if redact(line) != line or (is_secret_name(name) and not SECRET.search(value)):
        raise document.wrong(location, "holds a secret", "Write ${env:NAME} and set NAME where the worker runs: definitions are stored")
    if any(ord(character) < 32 or ord(character) > 126 for character in line):
        raise document.wrong(location, "holds a character that a header cannot have", "Use plain ASCII, in one line")
