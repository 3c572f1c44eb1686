"""What decoders of packed streams make of packed bytes."""

from __future__ import annotations

from collections.abc import Iterator

from dask_fits.streams.decoder import CutStreamError, StreamDecoder, StreamError


def pieces(packed: bytes, step: int) -> Iterator[memoryview]:
    for start in range(0, len(packed), step):
        yield memoryview(packed)[start : start + step]


def outcome_of(decoder: StreamDecoder, packed: bytes, step: int) -> tuple[bytes, str | None]:
    """What a stream unpacks to, and the error at its end if there is one."""
    found = bytearray()
    try:
        for piece in pieces(packed, step):
            for part in decoder.decode(piece):
                assert 0 < len(part) <= 1 << 20
                found += part
                assert decoder.length == decoder.verified == len(found)
        for part in decoder.finish():
            found += part
    except CutStreamError as error:
        return bytes(found), f"cut: {error}"
    except StreamError as error:
        return bytes(found), f"damaged: {error}"
    finally:
        assert decoder.length == decoder.verified == len(found)
    assert decoder.ended
    return bytes(found), None
