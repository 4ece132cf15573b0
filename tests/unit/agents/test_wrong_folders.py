"""Every mistake in a folder is named with file, line, field and remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.agents.conftest import AGENT, HTTP_TOOL, TOOLS, Write

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("more", "line", "pattern"),
    [
        ("instruction: x", 3, r"field instruction: is not known\. Did you mean instructions\?$"),
        ("limits: {step: 3}", 3, r"field limits\.step: is not known\. Did you mean steps\?$"),
        ("limits:\n  cost_usd: cheap", 4, r"field limits\.cost_usd: .*decimal.*given 'cheap'"),
        ("temperature: hot", 3, r"field temperature: .*given 'hot'"),
        ("limits: {steps: 0}", 3, r"field limits\.steps: .*greater than or equal to 1, given 0"),
        ("memory: {scope: planet}", 3, r"field memory\.scope: .*'user', 'agent' or 'tenant'.*given 'planet'"),
        ("tools: refund", 3, r"field tools: must be a list of names\. Write tools: \[one, another\]\."),
        ("tools: [refnd]", 3, r"field tools\.0: there is no tool 'refnd'\. Did you mean refund\?$"),
        ("tools: [bake]", 3, r"there is no tool 'bake'\. Known are find_order, refund\."),
        ("tools:\n  - refund\n  - refund", 5, r"field tools\.1: refund stands twice\. Keep one of them\."),
        ("tools: [1]", 3, r"field tools\.0: 1 is no name"),
        ("agents: [clerc]", 3, r"field agents\.0: there is no agent 'clerc'\. Did you mean clerk\?$"),
        ("handoffs: [clerk, nobody]", 3, r"field handoffs\.1: there is no agent 'nobody'"),
        (
            "tools: [refund]\napprovals: {find_order: true}",
            4,
            r"field approvals\.find_order: is none of this agent's tools\. Known are refund\.",
        ),
        (
            "tools: [refund]\napprovals:\n  refund: 50",
            5,
            r"field approvals\.refund: must be true, false or a condition\. Write a condition",
        ),
        (
            "tools: [refund]\napprovals:\n  refund: amount > 50",
            5,
            r"field approvals\.refund: no argument is called `amount`\. Did you mean `amount_usd`\?",
        ),
        ("tools: [refund]\napprovals: {refund: amount_usd >}", 4, r"field approvals\.refund: the condition `amount_usd >` cannot be read"),
        ("approvals: [refund]", 3, r"field approvals: must map tools to conditions"),
        ("output_schema: {type: objekt}", 3, r"field output_schema\.type: is no JSON schema: 'objekt'"),
        (
            "output_schema: {type: object, properties: {a: {pattern: '['}}}",
            3,
            r"field output_schema\.properties\.a\.pattern: is no JSON schema",
        ),
        ("output_schema: {default: 2026-01-02}", 3, r"field output_schema: holds what JSON cannot hold: .*date.*into quotes"),
        ("output_schema: {default: .nan}", 3, r"field output_schema: holds what JSON cannot hold"),
        ("name: other", 3, r"field name: stands twice\. Keep one of them\."),
        ("limits: {steps: 1,\n  steps: 2}", 4, r"field limits\.steps: stands twice"),
        ("output_schema: {yes: 1}", 3, r"field output_schema: the name yes is no text to YAML\. Put the name into quotes\."),
        ("output_schema: {? [a] : 1}", 3, r"a name must be a text"),
        ("memory: &m\n  scope: *m", None, r"nested too deep, or contains itself|Input should be"),
        ('description: "\\ud800"', 3, r"field description: holds a character that cannot be stored"),
        ('description: "a\\0b"', 3, r"field description: holds a character that cannot be stored"),
        ("description: 2024-13-45", None, r"holds a value that cannot be read: .*Put it into quotes"),
        ("limits: [", 4, r"is not YAML"),
        ("\tname: x", 3, r"is not YAML: found character '\\t'"),
        ("---\nname: b", 3, r"is not YAML: but found another document"),
    ],
)
def test_a_wrong_agent_is_refused(write: Write, refused: Refused, more: str, line: int | None, pattern: str):
    write("tools.py", TOOLS)
    write("clerk.yaml", AGENT.replace("support", "clerk"))
    write("support.yaml", AGENT + more + "\n")
    refused("support.yaml", line, pattern)


@pytest.mark.parametrize(
    ("text", "line", "pattern"),
    [
        ("instructions: x\n", 1, r"field name: is missing\. Add it\."),
        ("name: x\n", 1, r"field instructions: is missing\. Add it\."),
        ("name: Support!\ninstructions: x\n", 1, r"field name: .*pattern.*given 'Support!'"),
        ("name: a\n\ninstructions: ''\n", 3, r"field instructions: .*at least 1 character"),
        ("name: a\ninstructions: [x]\n", 2, r"field instructions: .*valid string"),
        ("- name: a\n", 1, r"must be a mapping"),
        ("", 1, r"must be a mapping"),
        ("just text\n", 1, r"must be a mapping"),
        (b"name: caf\xe9\n", None, r"byte 9 is not UTF-8\. Save the file as UTF-8\."),
        ("[" * 5000, None, r"nested too deep"),
    ],
)
def test_a_file_that_is_no_agent_is_refused(write: Write, refused: Refused, text: str | bytes, line: int | None, pattern: str):
    write("agents/x.yaml", text)
    refused("agents/x.yaml", line, pattern)


def test_two_agents_of_one_name_are_refused_also_from_two_folders(tmp_path: Path, write: Write, refused: Refused):
    write("a/one.yaml", AGENT)
    write("b/two.yaml", AGENT)
    refused("b/two.yaml", 1, r"field name: another agent is called support too\. Give", tmp_path / "a", tmp_path / "b")


def test_two_tools_of_one_name_are_refused_and_both_places_named(tmp_path: Path, write: Write, refused: Refused):
    write("a/tools.py", TOOLS)
    write("b/more.py", TOOLS)
    message = refused(
        "b/more.py",
        None,
        r"another tool is called (find_order|refund) too, at .*Give one of them another name",
        tmp_path / "a",
        tmp_path / "b",
    )
    assert str(tmp_path / "a" / "tools.py") in message


def test_an_http_tool_must_not_take_a_functions_name(write: Write, refused: Refused):
    write("tools.py", TOOLS)
    write("tools/refund.yaml", HTTP_TOOL.replace("track", "refund"))
    refused("tools/refund.yaml", 1, r"field tool: another tool is called refund too")


@pytest.mark.parametrize(
    ("field", "tool"),
    [("agents: [find_order]", "find_order"), ("handoffs: [find_order]", "hand_over_to_find_order")],
)
def test_an_agent_must_not_be_shown_under_a_tools_name(write: Write, refused: Refused, field: str, tool: str):
    write("tools.py", TOOLS.replace("find_order", tool))
    write("find_order.yaml", AGENT.replace("support", "find_order"))
    write("support.yaml", AGENT + f"tools: [{tool}]\n{field}\n")
    refused("support.yaml", 4, rf"field \w+\.0: the model would be shown two tools called {tool}")


@pytest.mark.parametrize(
    ("old", "new", "line", "pattern"),
    [
        ("url: https://carrier.example/shipments/{number}", "uri: x", 11, r"field http\.uri: is not known\. Did you mean url\?"),
        ("method: GET", "method: FETCH", 10, r"field http\.method: .*'GET'.*given 'FETCH'"),
        ("method: GET", "method: POST", 10, r"field http\.method: POST usually changes something.* Add effect: once"),
        ("{number}\n", "{nummer}\n", 11, r"field http\.url: no argument is called nummer\. Did you mean number\?"),
        ("{number}\n", "{number}?l={language}\n", 11, r"the argument language may be left out\. Add language to parameters\.required"),
        ("https://carrier.example", "https://{number}.example", 11, r"must not let an argument choose the server"),
        ("https://carrier.example", "ftp://carrier.example", 11, r"must begin with https"),
        ("https://carrier.example", "https://me:hunter2pass@carrier.example", 11, r"holds a secret"),
        ("carrier.example/", "carrier.example/${env:KEY}/", 11, r"cannot hold a secret"),
        ("Bearer ${env:CARRIER_TOKEN}", "Bearer sk-ant-REDACTED", 13, r"field http\.headers\.Authorization: holds a secret"),
        ("Authorization: Bearer ${env:CARRIER_TOKEN}", "X-Api-Key: abcdef", 13, r"field http\.headers\.X-Api-Key: holds a secret\. Write"),
        ("${env:CARRIER_TOKEN}", "${CARRIER_TOKEN}", 13, r"has a place that cannot be read\. Write \$\{env:NAME\}"),
        ("${env:CARRIER_TOKEN}", "$CARRIER_TOKEN", 13, r"has a place that cannot be read"),
        ("Authorization: Bearer ${env:CARRIER_TOKEN}", "X-City: Köln", 13, r"holds a character that a header cannot have"),
        ("type: object\n", "type: array\n", 3, r"field parameters: must be a schema of type object"),
        ("language: {type: string}", "language: {type: text}", 7, r"field parameters\.properties\.language\.type: is no JSON schema"),
        ("tool: track\n", "tool: track it\n", 1, r"field name: .*pattern"),
        ("tool: track\n", "tool: track\nkey: order\neffect: once\n", 2, r"field key: no argument is called `order`"),
        ("tool: track\n", "tool: track\napprove: number >\n", 2, r"field approve: the condition"),
        ("tool: track\n", "tool: track\napprove: [number]\n", 2, r"field approve: "),
        ("tool: track\n", "tool: track\nname: x\n", 2, r"field name: is not known\. The field `tool` is the tool's name\."),
        ("tool: track\n", "tool: track\neffect: twice\n", 2, r"field effect: .*'pure', 'idempotent' or 'once'"),
        ("description: Says where a shipment is.\n", "", 1, r"field description: is missing"),
    ],
)
def test_a_wrong_http_tool_is_refused(write: Write, refused: Refused, old: str, new: str, line: int, pattern: str):
    assert old in HTTP_TOOL
    write("tools/track.yaml", HTTP_TOOL.replace(old, new))
    refused("tools/track.yaml", line, pattern)


def test_an_http_tool_without_its_http_part_is_refused(write: Write, refused: Refused):
    write("track.yaml", HTTP_TOOL.split("http:")[0])
    refused("track.yaml", 1, r"an HTTP tool needs an http part\. Add http")


@pytest.mark.parametrize(
    ("text", "line", "pattern"),
    [
        ("x = 1\n1 / 0\n", 2, r"cannot be imported: ZeroDivisionError: division by zero\. Correct it"),
        ("x = 1\n\ndef f(:\n", 3, r"cannot be imported: SyntaxError"),
        ("import sys\nsys.exit(3)\n", 2, r"cannot be imported: SystemExit: 3\. Put what a script does under"),
        ("import no_such_module_anywhere\n", 1, r"ModuleNotFoundError.*Install it where the worker runs\."),
        ("import names\n", 1, r"ModuleNotFoundError.*write `from \.names import …`\."),
        ("from .names import missing\n", 1, r"cannot be imported: ImportError"),
        ("from holdfast import tool\n\n@tool\ndef f(a):\n    'F.'\n", 3, r"f: a: has no annotation\. Write its type"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(write: Write, refused: Refused, text: str, line: int, pattern: str):
    write("names.py", "NAME = 1\n")
    write("tools.py", text)
    before = set(sys.modules)
    refused("tools.py", line, pattern)
    assert not {name for name in set(sys.modules) - before if name.startswith("holdfast_agents_")}, "nothing half imported is left"


def test_the_line_named_is_in_the_folder_when_a_neighbour_raises(write: Write, refused: Refused):
    write("tools.py", "from .later import NAME\n")
    write("later.py", "import json\n\nNAME = json.loads('{')\n")
    refused("later.py", 3, r"cannot be imported: JSONDecodeError")


def test_what_nobody_provides_is_told_with_the_tool_that_wants_it(write: Write, refused: Refused):
    write(
        "tools.py",
        '''
        from decimal import Decimal
        from holdfast import Provided, tool

        @tool
        def count(shop: Provided[Decimal]) -> int:
            """Count."""
            return 1
        ''',
    )
    refused("tools.py", 4, r"wants a Decimal, which nobody provides\. Write an @provide function")


def test_one_type_is_provided_once(write: Write, refused: Refused):
    for name in ("a.py", "b.py"):
        write(
            name,
            """
            from collections.abc import AsyncIterator
            from holdfast import provide

            @provide
            async def one() -> AsyncIterator[int]:
                yield 1
            """,
        )
    message = refused("b.py", 4, r"int is provided at .*a\.py:4 already\. Keep one")
    assert "a.py" in message


@pytest.mark.parametrize("name", ["missing", "file.yaml"])
def test_what_is_no_folder_is_refused(tmp_path: Path, write: Write, refused: Refused, name: str):
    write("file.yaml", AGENT)
    refused(name, None, r"is no folder\. Name a folder with agent definitions", tmp_path / name)


def test_a_folder_with_the_name_of_a_definition_is_told(tmp_path: Path, write: Write, refused: Refused):
    (tmp_path / "a.yaml").mkdir()
    refused("a.yaml", None, r"cannot be read \(Is a directory\)")
