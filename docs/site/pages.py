"""All pages that are generated from the code, by their place in `docs/`."""

from __future__ import annotations

from pathlib import Path

from docs.site import api, commands, families, files, links, package, sessions, settings

INDEX = """# Reference

These pages are generated from the code.

```{toctree}
:maxdepth: 1

options
ini
environment
fixtures
hooks
commands
exit-codes
profiles
suite
tokens
provenance
report
python
families
package
```
"""


def pages() -> dict[str, str]:
    """Return the text of each page."""
    reference = {
        "index.md": INDEX,
        "options.md": settings.options_page(),
        "ini.md": settings.ini_page(),
        "environment.md": settings.environment_page(),
        "profiles.md": settings.profiles_page(),
        "fixtures.md": sessions.fixtures_page(),
        "hooks.md": sessions.hooks_page(),
        "exit-codes.md": sessions.exit_codes_page(),
        "commands.md": commands.commands_page(),
        "python.md": api.api_page(),
        "families.md": families.families_page(),
        "package.md": package.package_page(),
    }
    for file_format in files.FORMATS:
        reference[f"{file_format.page}.md"] = files.format_page(file_format)
    return {f"reference/{name}": text for name, text in reference.items()} | links.project_pages()


def write(folder: Path) -> None:
    """Write all pages below `folder`, except those that have not changed."""
    for name, text in pages().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
