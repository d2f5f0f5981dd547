"""Links from one Markdown file of the repository to another, where only some are in the site."""

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
"""Files outside of `docs/` that are pages of the site too, and where in `docs/` they are."""


def published() -> dict[str, str]:
    """Of these, the ones that exist."""
    return {source: page for source, page in PUBLISHED.items() if (ROOT / source).exists()}


def project_pages() -> dict[str, str]:
    """The text of each page that stands elsewhere in the repository, by its place in `docs/`."""
    return {
        page: for_site((ROOT / source).read_text("utf-8"), source, page)
        for source, page in published().items()
        if page != "index.md"
    }


def for_site(text: str, source: str, page: str) -> str:
    """A file's text as a page of the site: links hold there, or name what is not in the site.

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
