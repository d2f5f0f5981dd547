"""Suites in the formats of other tools, one module each; nothing of those tools is imported.

The command `export` knows them by name. What a divergence test asserts, a bound on nats, none of
them can ask: they get the prompts with what was measured, for their own questions.
"""

from __future__ import annotations
