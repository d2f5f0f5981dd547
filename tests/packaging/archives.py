"""What the sdist and the wheel hold: what git tracks, and nothing else.

python tests/packaging/archives.py FOLDER, after `python -m build --outdir FOLDER`
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "pytest_divergence/"
LEFT_OUT = "benchmarks/adapters/"
"""Weights, larger than all the rest: only the repository has them."""
CARRIED = {"pytest_divergence/AGENTS.md"}
"""What the wheel takes in from outside of the package."""
MADE = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "licenses/LICENSE"}


def main(folder: Path) -> None:
    """Exits with the names that one side lacks."""
    expected = tracked()
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    published = {name for name in expected if not name.startswith(LEFT_OUT)}
    _same(sdist.name, _in_sdist(sdist) - {"PKG-INFO"}, published)
    ours = {name for name in expected if name.startswith(PACKAGE)}
    _same(wheel.name, _in_wheel(wheel), ours | CARRIED | MADE)


def tracked() -> set[str]:
    """Every file that git tracks, by its path in the repository."""
    command = ["git", "-c", "core.quotepath=off", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return set(listed.rstrip("\0").split("\0"))


def _in_sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        files = [member.name for member in archive if not member.isdir()]
    return {name.partition("/")[2] for name in files}


def _in_wheel(path: Path) -> set[str]:
    """The files; those beside the package without the folder that carries the version."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    return {name if name.startswith(PACKAGE) else name.partition("/")[2] for name in names}


def _same(archive: str, found: set[str], expected: set[str]) -> None:
    if found != expected:
        missing, added = sorted(expected - found), sorted(found - expected)
        raise SystemExit(f"{archive} lacks {missing} and has {added} too; see pyproject.toml")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
