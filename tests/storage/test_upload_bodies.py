"""Bytes that are sent: they can be sent again, and a request lasts as long as they are taken."""

from __future__ import annotations

import asyncio
import hashlib
import selectors
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from dask_fits.storage.uploads import Body

_T = TypeVar("_T")


class _Selector(selectors.DefaultSelector):
    """One that does not wait, and counts the seconds that it would have waited."""

    seconds = 0.0

    def select(self, timeout: float | None = None) -> Any:
        self.seconds += timeout or 0.0
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    """An event loop in which time passes only where somebody waits, and then at once."""

    def __init__(self) -> None:
        self._passed = _Selector()
        super().__init__(self._passed)

    def time(self) -> float:
        return self._passed.seconds


def run(coroutine: Coroutine[Any, Any, _T]) -> tuple[_T, float]:
    """The result, and how many seconds it would have taken."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(coroutine), runner.get_loop().time()


def test_a_body_is_read_and_read_again() -> None:
    body = Body(memoryview(b"0123456789"))
    assert (body.nbytes, body.md5) == (10, hashlib.md5(b"0123456789").digest())

    async def send() -> bytes:
        async with body.timed(60):
            content = body.read(3) + body.read()
            body.close()  # as clients do
            return content

    assert [run(send())[0] for _ in range(2)] == [b"0123456789"] * 2


def test_a_body_keeps_bytes_that_are_overwritten() -> None:
    source = bytearray(b"before")
    body = Body(memoryview(source))
    source[:] = b"behind"
    assert body.getvalue() == body.read() == b"before"


@pytest.mark.parametrize("is_between", [False, True])
@pytest.mark.parametrize("is_in_thread", [False, True])
def test_bytes_that_are_taken_extend_it(is_between: bool, is_in_thread: bool) -> None:
    """As clients do it: some read in the event loop, some in another thread."""
    body = Body(bytes(100))
    taken = body.between(b"<", b">") if is_between else body

    async def send() -> None:
        async with body.timed(10):
            for _ in range(20):
                await asyncio.sleep(9)
                thread = threading.Thread(target=taken.read, args=(1,))
                if is_in_thread:
                    thread.start()
                    thread.join()
                else:
                    thread.run()

    _, seconds = run(send())
    assert seconds == pytest.approx(180)
    assert taken.tell() == 20


@pytest.mark.parametrize("taken", [0, 3])
def test_silence_ends_it(taken: int) -> None:
    body = Body(bytes(100))

    async def send() -> None:
        async with body.timed(10):
            for _ in range(taken):
                await asyncio.sleep(4)
                body.read(1)
            await asyncio.sleep(1000)

    async def wait() -> None:
        with pytest.raises(TimeoutError):
            await send()

    assert run(wait())[1] == pytest.approx(10 + 4 * taken)


def test_a_body_without_a_time_out() -> None:
    body = Body(b"content")

    async def send() -> bytes:
        async with body.timed(None):
            await asyncio.sleep(10_000)
            return body.read()

    assert run(send())[0] == b"content"


def test_a_body_between_others() -> None:
    body = Body(b"content")
    outer = body.between(b"<<", b">")
    assert (outer.read(), outer.nbytes) == (b"<<content>", 10)
    assert outer.md5 == body.md5 == hashlib.md5(b"content").digest()
