"""What agents folders define, taken together."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from activities.agents.folders import Catalog
from tests.unit.agents.conftest import AGENT, HTTP_TOOL, TOOLS, Write
from workflows.contracts.agents import Effect, ToolKind

Loaded = Callable[..., Catalog]


def test_agents_are_read_from_the_folder_and_from_agents_in_it(write: Write, loaded: Loaded):
    write("support.yaml", AGENT)
    write("agents/clerk.yml", AGENT.replace("support", "clerk"))
    write("notes.txt", "no definition")
    write("other/ignored.yaml", "name: [")
    assert set(loaded().definitions) == {"support", "clerk"}


def test_tools_are_found_by_their_decorator_and_resolved_into_the_definition(write: Write, loaded: Loaded):
    write("tools.py", TOOLS)
    write("support.yaml", AGENT + "tools: [find_order, refund]\n")
    specs = {spec.name: spec for spec in loaded().definitions["support"].tools}
    assert (specs["find_order"].effect, specs["refund"].effect) == (Effect.PURE, Effect.ONCE)
    assert specs["refund"].approve == "amount_usd > 50"


def test_an_http_tool_is_a_definition(write: Write, loaded: Loaded):
    write("tools/track.yaml", HTTP_TOOL)
    write("support.yaml", AGENT + "tools: [track]\n")
    (spec,) = loaded().definitions["support"].tools
    assert (spec.kind, spec.effect) == (ToolKind.HTTP, Effect.PURE)
    assert spec.http is not None
    assert spec.http.headers == {"Authorization": "Bearer ${env:CARRIER_TOKEN}"}


@pytest.mark.parametrize("approval", ["true", "'order_id == \"W1\"'", "false"])
def test_an_agents_approvals_stand_before_what_the_tool_says(write: Write, loaded: Loaded, approval: str):
    write("tools.py", TOOLS)
    write("support.yaml", AGENT + f"tools: [refund]\napprovals: {{refund: {approval}}}\n")
    (spec,) = loaded().definitions["support"].tools
    assert spec.approve == {"true": True, "false": False}.get(approval, 'order_id == "W1"')


def test_agents_of_one_folder_use_tools_and_agents_of_another(tmp_path: Path, write: Write, loaded: Loaded):
    write("a/tools.py", TOOLS)
    write("a/clerk.yaml", AGENT.replace("support", "clerk"))
    write("b/support.yaml", AGENT + "tools: [refund]\nagents: [clerk]\nhandoffs: [clerk]\n")
    assert set(loaded(tmp_path / "a", tmp_path / "b").definitions) == {"support", "clerk"}


def test_two_folders_may_both_have_a_tools_module(tmp_path: Path, write: Write, loaded: Loaded):
    for letter in "ab":
        write(f"{letter}/tools.py", TOOLS.replace("find_order", f"find_{letter}").replace("refund", f"refund_{letter}"))
    tools = loaded(tmp_path / "a", tmp_path / "b").tools
    assert set(tools) == {"find_a", "find_b", "refund_a", "refund_b"}
    assert {Path(tool.function.__code__.co_filename).parent.name for tool in tools.values()} == {"a", "b"}


def test_a_folder_that_is_named_twice_is_read_once(tmp_path: Path, write: Write, loaded: Loaded):
    write("a/tools.py", TOOLS)
    write("a/support.yaml", AGENT)
    assert len(loaded(tmp_path / "a", tmp_path / "b" / ".." / "a").tools) == 2


def test_modules_reach_each_other_and_their_packages_by_relative_imports(write: Write, loaded: Loaded):
    write("shop/__init__.py", "from .prices import PRICE\n")
    write("shop/prices.py", "PRICE = 7\n")
    write("aaa.py", "from .tools import find_order\n")
    write("tools.py", "from .shop import PRICE\nfrom .names import NAME\n" + TOOLS + "\nfound = (PRICE, NAME)\n")
    write("names.py", "NAME = 'W17'\n")
    catalog = loaded()
    module = sys.modules[catalog.tools["find_order"].function.__module__]
    assert module.found == (7, "W17")
    assert len(catalog.tools) == 2, "a tool that is imported by a second module is still one tool"


def test_tests_and_private_modules_are_not_read(write: Write, loaded: Loaded):
    write("tools.py", TOOLS)
    for name in ("test_tools.py", "conftest.py", "_draft.py"):
        write(name, "raise RuntimeError('imported')\n")
    assert len(loaded().tools) == 2


def test_reading_leaves_no_bytecode_in_the_users_folder(tmp_path: Path, write: Write, loaded: Loaded):
    write("tools.py", "from .names import NAME\n" + TOOLS)
    write("names.py", "NAME = 1\n")
    loaded()
    assert not list(tmp_path.rglob("__pycache__"))


def test_an_edit_of_the_same_size_within_the_same_second_is_seen(write: Write, loaded: Loaded):
    for number in "12":
        write("tools.py", "from .names import NUMBER\n" + TOOLS + "\nnumber = NUMBER\n")
        write("names.py", f"NUMBER = {number}\n")
        tool = loaded().tools["refund"]
        assert sys.modules[tool.function.__module__].number == int(number)


def test_what_tools_want_and_what_is_provided_is_brought_together(tmp_path: Path, write: Write, loaded: Loaded):
    write("names.py", "class Shop:\n    pass\n")
    write(
        "tools.py",
        '''
        from collections.abc import AsyncIterator
        from holdfast import Provided, provide, tool
        from .names import Shop

        @provide
        async def shop() -> AsyncIterator[Shop]:
            yield Shop()

        @tool
        def count(shop: Provided[Shop]) -> int:
            """Count."""
            return 1
        ''',
    )
    catalog = loaded()
    assert [provider.wanted for provider in catalog.providers] == list(catalog.tools["count"].wanted)


def test_the_model_file_is_found_and_no_agent(tmp_path: Path, write: Write, loaded: Loaded):
    write("models.yaml", "providers: {}\n")
    write("support.yaml", AGENT)
    catalog = loaded()
    assert catalog.model_files == (tmp_path / "models.yaml",)
    assert set(catalog.definitions) == {"support"}


def test_a_version_is_what_the_file_says(write: Write, loaded: Loaded):
    write("support.yaml", AGENT + "version: 1.10\n")
    assert loaded().definitions["support"].version == "1.10"


def test_a_field_without_a_value_is_as_if_it_were_not_there(write: Write, loaded: Loaded):
    write("support.yaml", AGENT + "tools:\nagents:\nhandoffs:\napprovals:\n")
    assert loaded().definitions["support"].tools == ()


def test_parts_may_be_shared_by_anchors_and_merged(write: Write, loaded: Loaded):
    write("support.yaml", AGENT + "limits: &small {steps: 5}\nmemory: {scope: user}\noutput_schema:\n  <<: {type: object}\n")
    definition = loaded().definitions["support"]
    assert (definition.limits.steps, definition.output_schema) == (5, {"type": "object"})


def test_the_same_content_has_the_same_hash_wherever_it_lies(tmp_path: Path, write: Write, loaded: Loaded):
    for letter in "ab":
        write(f"{letter}/tools.py", TOOLS)
        write(f"{letter}/support.yaml", AGENT + "tools: [refund]\n")
    hashes = {loaded(tmp_path / letter).definitions["support"].content_hash() for letter in "ab"}
    assert len(hashes) == 1
