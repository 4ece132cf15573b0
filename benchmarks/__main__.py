"""`python -m benchmarks [NAME]`: one benchmark, or all; the last line of each is one JSON object."""

from __future__ import annotations

import asyncio
import importlib
import sys
from pathlib import Path

from benchmarks import results

NAMES = ("run", "limiter", "surge", "budget", "kills", "redrive", "parked")


def main(arguments: list[str]) -> int:
    """Run what is named."""
    wanted = arguments or list(NAMES)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"no benchmark {unknown[0]!r}: there are {', '.join(NAMES)}", file=sys.stderr)
        return 2
    for name in wanted:
        module = importlib.import_module(f"benchmarks.{name}")
        measured = asyncio.run(module.measure())
        line = results.write(measured)
        print(measured.markdown)
        print(f"written to {Path(results.RESULTS).name}", file=sys.stderr)
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
