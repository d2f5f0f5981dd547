"""A connection to a Ray cluster, joined or started; the only file that imports Ray.

Knows what Ray changes in a process, and puts it back. Does not know what is sent to a cluster.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pytest_divergence.core.errors import SettingsError
from pytest_divergence.core.safe_text import visible
from pytest_divergence.core.setting_names import setting
from pytest_divergence.core.settings import Settings

STORE_BYTES = 80 * 2**20
"""Size of the object store of a cluster of our own: messages are small."""


@dataclass(frozen=True)
class RayOptions:
    """The cluster and its workers, as the user asks for them."""

    is_own: bool
    """Whether to start a cluster on this machine in any case, rather than to join one."""
    num_workers: int | None
    """None: as many as the cluster has GPUs, or CPUs, for."""
    gpus: int | None
    """GPUs of each worker; None: one, if the cluster has any and the models may use it."""
    must_give_gpus: bool
    """Whether the models' own specs name devices, so that one GPU may not do."""
    timeout: float | None
    """Seconds of a wait for workers, at most; None: no limit."""

    @classmethod
    def of(cls, settings: Settings, *, must_give_gpus: bool) -> RayOptions:
        """Return what the settings ask for."""
        is_cpu, gpus = settings.device == "cpu", settings.worker_gpus
        return cls(
            settings.engine == "ray:local",
            settings.workers,
            0 if is_cpu and gpus is None else gpus,
            must_give_gpus,
            settings.worker_timeout,
        )


@contextmanager
def by_value(root: Path) -> Iterator[None]:
    """Send what a project's own modules define, such as its conftest.py, with its code.

    Workers could not import it. Only what is below `root` and not installed counts.
    """
    cloudpickle: Any = imported().cloudpickle
    sent = [module for module in list(sys.modules.values()) if _is_projects(module, root)]
    for module in sent:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in sent:
            cloudpickle.unregister_pickle_by_value(module)


def _is_projects(module: ModuleType, root: Path) -> bool:
    file, name = getattr(module, "__file__", None), getattr(module, "__name__", "")
    top = name.split(".")[0]
    if not isinstance(file, str) or top in {__package__.split(".")[0], *sys.stdlib_module_names}:
        return False
    path = Path(file)
    is_installed = {"site-packages", "dist-packages"} & {*path.parts}
    return root in path.parents and not is_installed and sys.modules.get(name) is module


def imported() -> Any:
    """Return the module `ray`; raises `SettingsError` where it is not installed."""
    try:
        import ray
    except ImportError:
        raise SettingsError(
            f"{setting('engine')}=ray needs Ray: pip install 'pytest-divergence[ray]'"
        ) from None
    return ray


def connect(ray: Any, options: RayOptions) -> bool:
    """Join a cluster or start one; return whether the connection is ours to end.

    Raises `SettingsError` with Ray's own reason.
    """
    if ray.is_initialized():
        return False
    shared: Mapping[str, Any] = {
        "log_to_driver": False,
        "configure_logging": False,
        "logging_level": logging.ERROR,
    }
    logger = logging.getLogger("ray")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        if not options.is_own:
            try:
                ray.init(address="auto", **shared)
                return True
            except ConnectionError:
                if os.environ.get("RAY_ADDRESS"):  # whoever names a cluster wants no other
                    raise
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=options.num_workers,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            _node_ip_address="127.0.0.1",
            **shared,
        )
    except (OSError, RuntimeError, ValueError, ImportError, ray.exceptions.RayError) as error:
        raise SettingsError(
            f"{setting('engine')}: no Ray cluster can be used: {visible(str(error), 300)}"
        ) from error
    finally:
        logger.setLevel(level)
    return True


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Put the process's own handler of SIGTERM back: Ray replaces it, and leaves its own."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
