"""`python -m pytest_divergence.cli`: the command where it is not on the path."""

from __future__ import annotations

import sys

from pytest_divergence.cli import main

sys.exit(main())
