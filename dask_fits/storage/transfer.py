"""How remote bytes are fetched: sizes, bounds, and what is tried again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any, TypeVar

from dask_fits.exceptions import StorageError
from dask_fits.ranges.cost import DEFAULT_COST, CostModel

_T = TypeVar("_T")

_logger = logging.getLogger(__name__)

_PART_UNIT = 4096
"""Bytes. A part is at least this long, and of whole pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """How remote files are read; the defaults suit a cluster.

    Raises
    ------
    ValueError
        A value is out of its range.
    """

    part_size: int = 8 * 1024 * 1024
    """A range of more bytes than this is fetched as parts of at most this size, concurrently.
    A multiple of 4096."""
    max_concurrency: int = 32
    """Requests in flight in one process, over all its threads and files."""
    attempts: int = 6
    """How often a request is made, the first time included, before a passing fault is final."""
    backoff: float = 0.5
    """Seconds before the second attempt; doubled before each further one, and shortened at random
    by up to one half, so that the workers of a cluster do not come back together."""
    max_backoff: float = 20.0
    """Seconds: no wait grows past this, unless the server asks for more (Retry-After)."""
    retry_time: float = 120.0
    """Seconds after the first failure of a request from which on no further attempt begins."""
    timeout: float = 30.0
    """Seconds without a byte after which a request is given up, and made again. The wait for a free
    place among `max_concurrency` does not count."""
    cost: CostModel = DEFAULT_COST
    """How fast the storage is taken to be, from which follows what is fetched as one range."""
    check_version: bool = True
    """Hold every read to the version that was opened, by ETag, modification time, S3 version or
    GCS generation. False is for servers behind one name that tell one file differently: then the
    size alone is compared, and of a file that is replaced by one of the same length nothing is
    noticed. The version is the size alone, so that names of arrays do not depend on which machine
    answered."""
    warn_unversioned: bool = True
    """Warn where a server offers neither ETag nor modification time, so that of a file that is
    replaced while it is read only a change of its length can be noticed."""

    def __post_init__(self) -> None:
        if self.part_size < _PART_UNIT or self.part_size % _PART_UNIT:
            raise ValueError(
                f"part_size: expected a positive multiple of {_PART_UNIT}, found {self.part_size}"
            )
        for name in ("max_concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected 1 or more, found {getattr(self, name)}")
        for name in ("backoff", "max_backoff", "retry_time"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: expected 0 or more, found {getattr(self, name)}")
        if not self.timeout > 0:
            raise ValueError(f"timeout: expected more than 0, found {self.timeout}")

    def __reduce__(self) -> tuple[Any, ...]:
        # It travels with every task, and is all defaults mostly: only what differs is pickled.
        values = ((part, getattr(self, part.name)) for part in fields(self))
        return _changed, ({part.name: value for part, value in values if value != part.default},)

    def delay(self, attempt: int) -> float:
        """Seconds to wait after a failed attempt, counted from 1."""
        longest = min(self.backoff * 2.0 ** (attempt - 1), self.max_backoff)
        return longest * random.uniform(0.5, 1)  # noqa: S311 (spreads load, guards nothing)


def _changed(values: dict[str, Any]) -> TransferConfig:
    """Make a config that differs from the defaults in some values."""
    return TransferConfig(**values)


class TransientError(Exception):
    """A fault that may be over at the next attempt."""

    def __init__(self, said: str, *, wait: float = 0.0) -> None:
        super().__init__(said)
        self.wait = wait
        """Seconds that the server asks to wait (Retry-After)."""


async def retrying(
    request: Callable[[], Awaitable[_T]],
    *,
    config: TransferConfig,
    is_transient: Callable[[Exception], bool],
    told: Callable[[Exception], str],
) -> _T:
    """Make a request until it succeeds, fails for good, or the bounds of `config` are reached.

    Parameters
    ----------
    request : callable
        Makes the request, once.
    config : TransferConfig
    passing : callable
        Whether an exception of the request may be over at the next attempt.
    told : callable
        What to say of such an exception: the file, the request and the fault, without secrets.

    Raises
    ------
    StorageError
        A passing fault did not pass. Whatever else the request raises goes through.
    """
    failed, attempt = 0.0, 1
    while True:
        try:
            async with _places(asyncio.get_running_loop(), config.max_concurrency):
                return await request()
        except Exception as error:
            if not is_transient(error):
                raise
            failed = failed or time.monotonic()
            elapsed = time.monotonic() - failed
            delay = max(config.delay(attempt), getattr(error, "wait", 0.0))
            if attempt == config.attempts or elapsed + delay > config.retry_time:
                times = f"{attempt} attempt{'s' * (attempt > 1)}"
                raise StorageError(f"{told(error)}; given up after {times}") from error
            _logger.warning(
                "%s; attempt %d of %d in %.1f s", told(error), attempt + 1, config.attempts, delay
            )
        await asyncio.sleep(delay)
        attempt += 1


@lru_cache(maxsize=8)
def _places(loop: asyncio.AbstractEventLoop, count: int) -> asyncio.Semaphore:
    """Places for requests in flight: fsspec runs one event loop in a process."""
    del loop  # it is in the key: a semaphore belongs to one loop, and a forked process has another
    return asyncio.Semaphore(count)


def retry_after(value: str | None) -> float:
    """Seconds that a Retry-After header asks for: a number or a date (RFC 9110, 10.2.3)."""
    if not value:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        when = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)
