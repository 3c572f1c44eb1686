"""A cluster of Dask on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dask
from distributed import Client, LocalCluster

SETTINGS = {
    "distributed.admin.system-monitor.interval": "10s",
    "distributed.admin.tick.interval": "1s",
    "distributed.worker.memory.monitor-interval": "10s",
    "distributed.scheduler.profile.enabled": False,
    "distributed.worker.profile.enabled": False,
    "distributed.deploy.lost-worker-timeout": "1 hour",
}
"""Settings by which a cluster that waits costs the tests beside it next to nothing, and keeps its
workers: one that is being started again when the last of these times has passed since it was first
lost is given up for good.
"""


@contextmanager
def workers(count: int, *, processes: bool) -> Iterator[Client]:
    """So many workers of one thread each, in processes of their own or in this one."""
    with (
        dask.config.set(SETTINGS),
        LocalCluster(
            n_workers=count,
            threads_per_worker=1,
            processes=processes,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client
