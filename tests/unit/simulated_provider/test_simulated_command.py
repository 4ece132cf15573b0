from __future__ import annotations

from pathlib import Path

import pytest

from devstack.simulated_provider.command import main
from devstack.simulated_provider.loading import load_policy
from devstack.simulated_provider.policy import SimulatedRequest
from workflows.contracts.errors import SettingsError

REQUEST = SimulatedRequest(model="m", system="", messages=(), tools=())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--fault", "rate_limted"], "rate_limted"),
        (["--fault", "quota,nth=zero"], "nth"),
        (["--fault", "quota,color=red"], "color"),
        (["--fault", "quota,nth"], "FIELD=VALUE"),
        (["--limit", "*,requests_per_minute=0"], "requests_per_minute"),
        (["--latency", "*,first_token_s=-1"], "first_token_s"),
        (["--policy", "nowhere"], "package.module:function"),
        (["--policy", "no_such_module:answer"], "no_such_module"),
        (["--policy", "no/such/file.py:answer"], "no/such/file.py"),
        (["--policy", "json:no_such_function"], "no_such_function"),
    ],
)
def test_a_wrong_argument_is_named_and_the_exit_code_is_2(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--port", "http"]])
def test_an_unknown_flag_or_a_value_of_the_wrong_type_is_named(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_a_policy_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my_policy.py"
    file.write_text(
        "from devstack.simulated_provider.policy import SimulatedAnswer\n"
        "def answer(request):\n    return SimulatedAnswer(text='from a file: ' + request.model)\n"
    )
    assert load_policy(f"{file}:answer")(REQUEST).text == "from a file: m"


def test_a_policy_comes_from_a_module() -> None:
    policy = load_policy("devstack.simulated_provider.answering:plain_policy")
    assert "simulated" in policy(REQUEST).text


def test_a_file_that_cannot_run_says_why(tmp_path: Path) -> None:
    file = tmp_path / "broken.py"
    file.write_text("1 / 0\n")
    with pytest.raises(SettingsError, match="ZeroDivisionError"):
        load_policy(f"{file}:answer")
