"""What was asked for → the engine that does it, started and stopped."""

import contextlib
from collections.abc import Iterator

from medfinder.errors import ConfigError
from medfinder.scale.engine import Engine
from medfinder.scale.here import Here
from medfinder.scale.processes import Processes

RAY_HELP = (
    "Work on a Ray cluster: auto (the one of this machine or of RAY_ADDRESS), local (one that is "
    "started here for the run), or an address. It must see the same files at the same paths."
)
WORKERS_HELP = "Processes; 0 for one a core. With --ray, workers of the cluster; 0 for all it has."


@contextlib.contextmanager
def open_engine(workers: int = 1, ray: str | None = None) -> Iterator[Engine]:
    """Give an engine for the time of a run.

    Args:
        workers: 1 for this process, without others; 0 for one a core, or of Ray all there is.
        ray: The cluster's address, see `RayCluster`; None for this machine alone.

    Raises:
        ConfigError: `workers` is below 0.
        MissingExtra: Ray was asked for and is not installed.
        InputError: There is no such cluster.
    """
    if workers < 0:
        raise ConfigError(f"--workers is {workers}; expected 0 (all cores) or more.")
    if ray is None:
        yield Here() if workers == 1 else Processes(workers)
        return
    from medfinder.scale.ray_cluster import RayCluster

    with RayCluster(ray, workers=workers) as cluster:
        yield cluster
