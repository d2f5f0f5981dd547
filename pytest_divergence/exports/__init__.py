"""Suites in the formats of other tools, one module each; nothing of those tools is imported.

The command `export` knows them by name. None of those tools can assert a bound in nats, as a
divergence test does: they get the prompts with their measurements, for their own checks.
"""

from __future__ import annotations
