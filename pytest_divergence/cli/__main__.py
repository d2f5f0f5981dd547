"""`python -m pytest_divergence.cli`: the command when it is not on PATH."""

from __future__ import annotations

import sys

from pytest_divergence.cli import main

sys.exit(main())
