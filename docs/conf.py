"""The site: Markdown by MyST, the look of furo, and a reference that is made from the code.

    sphinx-build -W --keep-going -n docs build/docs

The build needs no network.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent))

from docs.site import links, pages  # noqa: E402  # the repository is on the path now
from pytest_divergence import __version__  # noqa: E402

project = "pytest-divergence"
author = "The pytest-divergence developers"
copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["site"]
html_theme = "furo"
html_title = project
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
# Rendered in a browser that may; the pages read as LaTeX where it may not.
html_math_renderer = "mathjax"

smartquotes = False  # options begin with two hyphens
default_role = "code"  # docstrings are written in Markdown's way: one backtick is code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"undoc-members": False}
# Types in signatures: aliases, inner records and other libraries', whose inventories would have to
# be fetched. Every other reference is checked.
nitpick_ignore_regex = [("py:class", ".*"), ("py:obj", ".*")]


def setup(app: Any) -> None:
    """Make the generated pages before Sphinx looks for pages."""
    app.connect("builder-inited", lambda app: pages.write(Path(app.srcdir)))
    app.connect("source-read", _rewrite)


def _rewrite(app: Any, name: str, source: list[str]) -> None:
    """Links that leave `docs/` hold in the repository, and are changed for the site."""
    if not name.startswith(("reference/", "project/")):
        source[0] = links.for_site(source[0], f"docs/{name}.md", f"{name}.md")
