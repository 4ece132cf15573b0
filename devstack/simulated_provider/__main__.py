"""`python -m devstack.simulated_provider`: the simulated provider as a process of its own."""

from __future__ import annotations

import sys

from devstack.simulated_provider.command import main

sys.exit(main(sys.argv[1:]))
