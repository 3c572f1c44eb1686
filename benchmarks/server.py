"""A slow web server in a process of its own, so that its work does not hold up who is measured."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, Self

from benchmarks.harness import clock, interleave
from tests.servers.range_server import RangeServer


class Cost(NamedTuple):
    """What a server was asked for and sent."""

    requests: int
    nbytes: int
    """Of bodies; headers do not count."""
    peak: int
    """The most requests at one time."""


class ServerProcess:
    """`RangeServer` for the files of a directory, in a new process while the ``with`` block runs.

    The latency is a pause before each answer. To connect costs nothing, unlike over a real line,
    where it takes one more round trip, and two or three with TLS.
    """

    def __init__(self, folder: Path) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(folder, theirs), daemon=True)

    @property
    def url(self) -> str:
        """Address of the directory."""
        return self._url

    def __enter__(self) -> Self:
        self._process.start()
        self._url: str = self._pipe.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join()

    def be(self, *, latency: float, bandwidth: float | None = None) -> None:
        """Answer from now on with this latency (seconds) and bandwidth (bytes per second)."""
        self.order(partial(_be, latency=latency, bandwidth=bandwidth))

    def order(self, order: Callable[[RangeServer], None]) -> Cost:
        """Have something done with the server; tell of the requests since this was last asked."""
        self._pipe.send(order)
        return Cost(*self._pipe.recv())

    def cost(self) -> Cost:
        """Tell of the requests since this was last asked for."""
        return self.order(_nothing)

    def measure(
        self, contenders: Mapping[str, Callable[[], object]], *, rounds: int
    ) -> tuple[dict[str, list[float]], dict[str, list[Cost]]]:
        """Interleave the contenders: the seconds of each, and what each cost the server."""
        costs: dict[str, list[Cost]] = defaultdict(list)

        def seconds(name: str, run: Callable[[], object]) -> float:
            self.cost()
            found = clock(run)
            costs[name].append(self.cost())
            return found

        timed = {name: partial(seconds, name, run) for name, run in contenders.items()}
        samples = interleave(timed, rounds=rounds)
        return samples, {name: found[1:] for name, found in costs.items()}  # without the warm-up


def _nothing(_: RangeServer) -> None:
    """Do nothing."""


def _be(server: RangeServer, *, latency: float, bandwidth: float | None) -> None:
    server.latency, server.bandwidth = latency, bandwidth


def _serve(folder: Path, pipe: Connection) -> None:
    with RangeServer(folder) as server:
        pipe.send(server.url)
        try:
            while (order := pipe.recv()) is not None:
                order(server)
                pipe.send((server.requests, server.bytes, server.peak))
                server.clear()
        except EOFError:  # the parent is gone
            return
