"""Configuration of remote reads, and the retries of their requests."""

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
"""Bytes. `part_size` is a multiple of this, so that parts have whole pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferConfig:
    """Configuration of reads of remote files; the defaults suit a cluster.

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
    """Attempts per request, the first included."""
    backoff: float = 0.5
    """Seconds before the second attempt; doubled before each further one, and shortened at random
    by up to one half, so that the workers of a cluster do not retry in step."""
    max_backoff: float = 20.0
    """Seconds. No wait is longer, unless the server asks for more (Retry-After)."""
    retry_time: float = 120.0
    """Seconds after the first failure of a request, past which no further attempt begins."""
    timeout: float = 30.0
    """Seconds without a byte after which an attempt fails, and the request is retried. The wait for
    one of the `max_concurrency` places does not count."""
    cost: CostModel = DEFAULT_COST
    """Assumed speed of the storage, which decides what is fetched as one range."""
    check_version: bool = True
    """Check in every read that the file is the version that was opened, by ETag, modification time,
    S3 version or GCS generation. False is for servers behind one name that report different
    validators of one file: then the size alone is compared, and the replacement of a file by one of
    the same length is not detected. The version is the size alone, so that names of arrays do not
    depend on which machine responds."""
    warn_unversioned: bool = True
    """Warn if a server sends neither ETag nor modification time, so that the replacement of a file
    while it is read is detected only by a change of its length."""

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
        # It travels with every task, and mostly has the defaults: only what differs is pickled.
        values = ((field, getattr(self, field.name)) for field in fields(self))
        changed = {field.name: value for field, value in values if value != field.default}
        return _make_config, (changed,)

    def delay(self, attempt: int) -> float:
        """Return the seconds to wait after a failed attempt, counted from 1."""
        max_delay = min(self.backoff * 2.0 ** (attempt - 1), self.max_backoff)
        return max_delay * random.uniform(0.5, 1)  # noqa: S311 (spreads load, guards nothing)


def _make_config(changed: dict[str, Any]) -> TransferConfig:
    """Make a config that differs from the defaults in some values, for unpickling."""
    return TransferConfig(**changed)


class TransientError(Exception):
    """A fault that may be over at the next attempt."""

    def __init__(self, message: str, *, wait: float = 0.0) -> None:
        super().__init__(message)
        self.wait = wait
        """Seconds that the server asks to wait (Retry-After)."""


async def retrying(
    request: Callable[[], Awaitable[_T]],
    *,
    config: TransferConfig,
    is_transient: Callable[[Exception], bool],
    describe: Callable[[Exception], str],
) -> _T:
    """Make a request until it succeeds, fails for good, or the limits of `config` are reached.

    Parameters
    ----------
    request : callable
        Makes the request, once.
    config : TransferConfig
    is_transient : callable
        Returns whether an exception of the request may be over at the next attempt.
    describe : callable
        Returns a message for such an exception: the file, the request and the fault, redacted.

    Raises
    ------
    StorageError
        A transient fault lasted. Whatever else the request raises is raised as it is.
    """
    first_failure = 0.0  # not yet
    attempt = 1
    while True:
        try:
            # The place is held for one attempt: a request that backs off keeps no other waiting.
            async with _semaphore(asyncio.get_running_loop(), config.max_concurrency):
                return await request()
        except Exception as error:
            if not is_transient(error):
                raise
            first_failure = first_failure or time.monotonic()
            elapsed = time.monotonic() - first_failure
            # A server that asks to wait gets at least that long, even past `max_backoff`.
            delay = max(config.delay(attempt), getattr(error, "wait", 0.0))
            if attempt == config.attempts or elapsed + delay > config.retry_time:
                times = f"{attempt} attempt{'s' * (attempt > 1)}"
                raise StorageError(f"{describe(error)}; given up after {times}") from error
            _logger.warning(
                "%s; attempt %d of %d in %.1f s",
                describe(error),
                attempt + 1,
                config.attempts,
                delay,
            )
        await asyncio.sleep(delay)
        attempt += 1


@lru_cache(maxsize=8)
def _semaphore(loop: asyncio.AbstractEventLoop, count: int) -> asyncio.Semaphore:
    """Return the semaphore for requests in flight: fsspec runs one event loop in a process."""
    # The loop is in the key: a semaphore belongs to one loop, and a forked process has another.
    del loop
    return asyncio.Semaphore(count)


def retry_after(value: str | None) -> float:
    """Return the seconds that a Retry-After header asks for (RFC 9110, 10.2.3).

    Its value is a number of seconds or a date; anything else asks for none.
    """
    if not value:
        return 0.0
    try:
        return max(float(value), 0.0)
    except ValueError:
        pass
    try:
        date = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    # A date without a zone, or of the unknown zone -0000, is taken as UTC.
    date = date if date.tzinfo else date.replace(tzinfo=UTC)
    return max((date - datetime.now(UTC)).total_seconds(), 0.0)
