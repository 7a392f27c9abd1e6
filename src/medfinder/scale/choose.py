"""What was asked for → the engine that does it, started and stopped."""

import contextlib
from collections.abc import Iterator

from medfinder.errors import ConfigError
from medfinder.scale.engine import Engine


@contextlib.contextmanager
def open_engine(workers: int | None = None, ray: str | None = None) -> Iterator[Engine | None]:
    """Give an engine for the time of a run; None where the stage's own process does the work.

    Args:
        workers: 0 for one a core, or of Ray all there is room for; None for 1, of Ray all.
        ray: The cluster's address, see `RayCluster`; None for this machine alone.

    Raises:
        ConfigError: `workers` is below 0.
        MissingExtra: Ray was asked for and is not installed.
        InputError: There is no such cluster.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"--workers is {workers}; expected 0 (all cores) or more.")
    if ray is not None:
        from medfinder.scale.ray_cluster import RayCluster

        with RayCluster(ray, workers=workers or 0) as cluster:
            yield cluster
    elif workers is None or workers == 1:
        yield None
    else:
        from medfinder.scale.processes import Processes

        yield Processes(workers)
