"""The part of the documentation that is made from the code, when the site is built.

Every page of `docs/reference/` and `docs/project/` comes from here: `pages.pages()` has them all,
as text. Nothing is listed by hand that the code lists too.
"""

from __future__ import annotations
