"""Links between the repository's Markdown files, of which only some are on the site."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^()\s:#]+)(#[^()\s]*)?\)")
PUBLISHED = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "AGENTS.md": "project/agents.md",
    "conftest_templates/README.md": "project/templates.md",
    "benchmarks/README.md": "project/benchmarks.md",
    "examples/organisms/README.md": "project/organisms.md",
    "README.md": "index.md",
}
"""Files outside `docs/` that are also pages of the site, and their places in `docs/`."""


def published() -> dict[str, str]:
    """Return the published files that exist."""
    return {source: page for source, page in PUBLISHED.items() if (ROOT / source).exists()}


def project_pages() -> dict[str, str]:
    """Return the text of each page from elsewhere in the repository, by its place in `docs/`."""
    return {
        page: for_site((ROOT / source).read_text("utf-8"), source, page)
        for source, page in published().items()
        if page != "index.md"
    }


def for_site(text: str, source: str, page: str) -> str:
    """Return a file's text for the site: links work there, or name files that are not on it.

    `source` is its path in the repository, `page` its path in `docs/`.
    """

    def replaced(match: re.Match[str]) -> str:
        image, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        path = os.path.normpath(PurePosixPath(source).parent / target)
        if path.startswith("docs/"):
            there = path.removeprefix("docs/")
        else:
            there = published().get(path) or published().get(f"{path}/README.md") or ""
        if there:
            relative = os.path.relpath(there, PurePosixPath(page).parent)
            return f"{image}[{label}]({relative}{anchor})"
        return label if label.strip("`") == path else f"{label} (`{path}`)"

    return LINK.sub(replaced, text)
