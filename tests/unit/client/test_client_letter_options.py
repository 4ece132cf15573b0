"""What `holdfast dead-letters` refuses before it asks any server."""

from __future__ import annotations

import pytest

from client.command_line.exits import ExitCode
from client.command_line.main import dispatch
from client.command_line.options import spoken_s


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("redrive",), "Which? Name one as RUN:LETTER, choose by options as in --class quota, or say --all."),
        (("redrive", "r:1", "--tenant", "t"), "Name one dead letter, or choose by options, not both."),
        (("abort", "r:1", "--all"), "Name one dead letter, or choose by options, not both."),
        (("redrive", "r:1", "--arguments", "{"), "--arguments is not JSON"),
        (("redrive", "r:1", "--arguments", "[1]"), "--arguments must be one JSON object"),
        (("redrive", "r:1", "--instructions", "@nowhere.md"), "nowhere.md cannot be read"),
        (("redrive", "r:1", "--limit", "step=3"), "--limit must be NAME=VALUE with a name of steps"),
        (("skip", "r:1"), "--result"),
        (("list", "--state", "lost"), "--state"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_remedy(
    arguments: tuple[str, ...], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dispatch(("dead-letters", *arguments)) == ExitCode.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert problem in " ".join(told.err.split())


def test_a_length_of_time_is_read_as_people_write_it() -> None:
    told = {"30s": 30, "90m": 5_400, "24h": 86_400, "7d": 604_800, "2w": 1_209_600, None: None}
    assert {text: spoken_s("older-than", text) for text in told} == told
