"""How much memory is there, on a device or in this process's container.

Reads what the system says; does not know what needs memory. Imports torch only for a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

ROOT = Path("/")
GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": (
        "sys/fs/cgroup/memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file",
    ),
}
"""Control groups of version 2 and 1, by controller: mount, limit, usage, what can be reclaimed."""


def available_memory(device: str) -> int | None:
    """Bytes that can still be taken on `cpu`, `cuda`, `cuda:1` or `mps`; None: nothing tells.

    Apple's GPUs share the host's memory.
    """
    if not device.startswith("cuda"):
        return host_memory()
    import torch

    free: int = torch.cuda.mem_get_info(torch.device(device))[0]
    return free


def all_memory() -> int | None:
    """Bytes that can still be taken on the host and all GPUs together; None: nothing tells."""
    import torch

    here = host_memory()
    if here is None:
        return None
    return here + sum(torch.cuda.mem_get_info(one)[0] for one in range(torch.cuda.device_count()))


def host_memory(root: Path = ROOT) -> int | None:
    """Bytes that this process can still take; `root` is where the system's own files are.

    On Linux what can be had without swapping, within the limits of the process's control groups;
    elsewhere all memory, where the system says how much that is.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = (root / "proc/meminfo").read_text("utf-8").splitlines()
        line = next(one for one in lines if one.startswith("MemAvailable:"))
        return min([int(line.split()[1]) * 1024, *_left_in_groups(root)])
    with suppress(AttributeError, OSError, ValueError):  # Windows has no such question
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _left_in_groups(root: Path) -> Iterator[int]:
    """What each control group above this process leaves it."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text("utf-8").splitlines():
            _, names, path = line.split(":", 2)
            for controller in GROUPS.keys() & set(names.split(",")):
                mount, *files = GROUPS[controller]
                inside = PurePosixPath(path)
                for group in (inside, *inside.parents):
                    yield from _left_in(root / mount / str(group).lstrip("/"), *files)


def _left_in(group: Path, limit: str, usage: str, reclaimable: str) -> Iterator[int]:
    with suppress(OSError, ValueError):  # no such group here, or "max": no limit
        allowed = int((group / limit).read_text("utf-8"))
        used = int((group / usage).read_text("utf-8"))
        stat = dict(
            line.split() for line in (group / "memory.stat").read_text("utf-8").splitlines()
        )
        yield max(0, allowed - used + int(stat.get(reclaimable, 0)))
