"""A cluster of Dask on this machine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from distributed import Client, LocalCluster


@contextmanager
def two_workers(*, set_as_default: bool) -> Iterator[Client]:
    """Two processes of one thread each; the default client computes what names no other."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster, set_as_default=set_as_default) as client,
    ):
        yield client
