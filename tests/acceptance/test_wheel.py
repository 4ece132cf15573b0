"""The wheel in a fresh virtual environment: what somebody has who typed `pip install holdfast`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*command: str | Path, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command that must end well."""
    kept = {
        name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "TEMPORAL_ADDRESS", "DATABASE_URL")
    }
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=kept | environ, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment that holds the wheel and what it asks for, and nothing of the checkout."""
    uv = shutil.which("uv") or ROOT / ".uv" / "bin" / "uv"
    if not Path(uv).exists():
        pytest.fail("uv is not here: `make setup` brings it")
    folder = tmp_path_factory.mktemp("wheel")
    run(uv, "build", "--quiet", "--wheel", "--out-dir", folder, ROOT)
    wheel = next(folder.glob("*.whl"))
    run(uv, "venv", "--quiet", "--python", sys.executable, folder / "venv")
    run(uv, "pip", "install", "--quiet", "--python", folder / "venv" / "bin" / "python", wheel)
    return folder / "venv" / "bin"


def test_the_command_says_what_it_can(fresh: Path, tmp_path: Path) -> None:
    assert "Usage: holdfast" in run(fresh / "holdfast", "--help", cwd=tmp_path).stdout


def test_the_facade_loads_no_provider_sdk(fresh: Path, tmp_path: Path) -> None:
    code = "import sys, holdfast; holdfast.tool; print([name for name in ('openai', 'anthropic') if name in sys.modules])"
    assert run(fresh / "python", "-c", code, cwd=tmp_path).stdout.strip() == "[]"


def test_a_new_folder_passes_its_own_test(fresh: Path, tmp_path: Path) -> None:
    """The scaffold, the pytest plugin, the embedded PostgreSQL and Temporal, all from the wheel."""
    uv = shutil.which("uv") or ROOT / ".uv" / "bin" / "uv"
    run(uv, "pip", "install", "--quiet", "--python", fresh / "python", "pytest>=9", "pytest-asyncio>=1.3")
    run(fresh / "holdfast", "new", "desk", cwd=tmp_path)
    done = run(fresh / "python", "-m", "pytest", "-q", cwd=tmp_path / "desk")
    assert " passed" in done.stdout, done.stdout
