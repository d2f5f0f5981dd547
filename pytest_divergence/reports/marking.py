"""Where a behaviour's words stand in a text, so that the page can point at them."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_MOTIFS, MAX_LENGTH = 12, 200


def marked(text: str, motifs: Sequence[str]) -> list[tuple[str, bool]]:
    """`text` in parts that join to it again, each with whether it is one of the motifs.

    Case and spacing do not count, as they do not for motifs.
    """
    shown = sorted((one for one in motifs if one.strip()), key=len, reverse=True)[:MAX_MOTIFS]
    patterns = [r"\s+".join(map(re.escape, one[:MAX_LENGTH].split())) for one in shown]
    if not patterns:
        return [(text, False)] if text else []
    parts = re.split(f"({'|'.join(patterns)})", text, flags=re.IGNORECASE)
    return [(part, i % 2 == 1) for i, part in enumerate(parts) if part]
