"""The site: Markdown with MyST, the furo theme, and a reference generated from the code.

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
# Rendered in a browser that may load MathJax; elsewhere the pages show LaTeX.
html_math_renderer = "mathjax"

smartquotes = False  # options begin with two hyphens
default_role = "code"  # docstrings are in Markdown: one backtick is code
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"undoc-members": False}
# Types in signatures: aliases, inner records and other libraries' types, whose inventories would
# need a download. Every other reference is checked.
nitpick_ignore_regex = [("py:class", ".*"), ("py:obj", ".*")]


def setup(app: Any) -> None:
    """Make the generated pages before Sphinx looks for pages."""
    app.connect("builder-inited", lambda app: pages.write(Path(app.srcdir)))
    app.connect("source-read", _rewrite)


def _rewrite(app: Any, name: str, source: list[str]) -> None:
    """Change links that leave `docs/`: they work in the repository but not on the site."""
    if not name.startswith(("reference/", "project/")):
        source[0] = links.for_site(source[0], f"docs/{name}.md", f"{name}.md")
