"""The part of the documentation that is generated from the code when the site is built.

Every page of `docs/reference/` and `docs/project/` comes from here: `pages.pages()` returns them
all, as text. Nothing that the code lists is listed again by hand.
"""

from __future__ import annotations
