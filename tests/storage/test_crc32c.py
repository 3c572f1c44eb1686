"""CRC-32C of joined bytes, against Google's own library."""

from __future__ import annotations

import base64
from functools import reduce

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dask_fits.storage.crc32c import combine, from_base64


def crc(content: bytes) -> int:
    return int(google_crc32c.value(content))


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_two_parts(first: bytes, second: bytes) -> None:
    assert combine(crc(first), crc(second), len(second)) == crc(first + second)


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_many_parts(parts: list[bytes]) -> None:
    found = reduce(lambda sum_, part: combine(sum_, crc(part), len(part)), parts, 0)
    assert found == crc(b"".join(parts))


@pytest.mark.parametrize("length", [4096, 65536 + 1, (1 << 20) - 7, 5 << 20])
def test_parts_as_long_as_those_of_a_file(length: int) -> None:
    second = bytes(range(256)) * (length // 256 + 1)
    first, second = b"SIMPLE  = ", second[:length]
    assert combine(crc(first), crc(second), length) == crc(first + second)


def test_the_check_value() -> None:
    """RFC 3720, appendix B.4: 32 bytes of zeros, and 32 of ones."""
    zeros, ones = bytes(32), b"\xff" * 32
    assert (crc(zeros), crc(ones)) == (0x8A9136AA, 0x62A8AB43)
    assert combine(0x8A9136AA, 0x62A8AB43, 32) == crc(zeros + ones)


def test_parts_of_more_than_4_gib() -> None:
    """The length of what follows counts, though nobody holds it: 5 GiB of zeros are 5 x 1 GiB."""
    mib, length = crc(bytes(1 << 20)), 1 << 20
    for _ in range(10):
        mib, length = combine(mib, mib, length), 2 * length
    assert length == 1 << 30
    whole = crc(b"start")
    for _ in range(5):
        whole = combine(whole, mib, length)
    five = reduce(lambda sum_, _: combine(sum_, mib, length), range(5), 0)
    assert combine(crc(b"start"), five, 5 * length) == whole


@given(st.integers(0, 2**32 - 1))
def test_base64(value: int) -> None:
    text = base64.b64encode(value.to_bytes(4, "big")).decode()
    assert from_base64(text) == value


def test_base64_as_google_writes_it() -> None:
    """https://cloud.google.com/storage/docs/hashes-etags tells big-endian; the library does so."""
    text = base64.b64encode(google_crc32c.Checksum(b"123456789").digest()).decode()
    assert (text, from_base64(text)) == ("4waSgw==", 0xE3069283)
