"""Collections, and what they have to agree on."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

import dask_fits
from dask_fits import Collection
from tests.support.fits_files import same_bits

PIXELS = np.random.default_rng(90).integers(-300, 300, (20, 30)).astype("i2")

SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRPIX1": 15.5,
    "CRPIX2": 10.5,
    "CRVAL1": 150.0,
    "CRVAL2": 2.0,
    "CDELT1": -1e-3,
    "CDELT2": 1e-3,
}
"""Keywords of an image around 150, +2 degrees."""


def image(header: dict[str, Any] | None = None, pixels: np.ndarray = PIXELS) -> bytes:
    """A file of one image in its primary HDU."""
    # A copy, since astropy takes BZERO off the array itself.
    return several(fits.PrimaryHDU(pixels.copy(), fits.Header(header or {})))


def several(*hdus: Any) -> bytes:
    """A file of these HDUs, behind an empty primary HDU if they need one."""
    first = [] if isinstance(hdus[0], fits.PrimaryHDU) else [fits.PrimaryHDU()]
    buffer = io.BytesIO()
    fits.HDUList([*first, *hdus]).writeto(buffer, output_verify="ignore")
    return buffer.getvalue()


def put(directory: Path, contents: Sequence[bytes], stem: str = "image") -> list[str]:
    """Write files, and return their paths."""
    paths = [directory / f"{stem}_{number:03}.fits" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return [str(path) for path in paths]


def collect(header: dict[str, Any], directory: Path, **arguments: Any) -> Collection:
    """The collection of a file of one image with these keywords."""
    return dask_fits.open_collection(put(directory, [image(header)]), **arguments)


def assert_same_columns(one: Collection, other: Collection) -> None:
    """All columns are equal, types of values included, and NaN where there is NaN."""
    assert one.colnames == other.colnames
    assert len(one) == len(other)
    for name in one.colnames:
        first, second = one.column(name), other.column(name)
        assert first.dtype == second.dtype, name
        if first.dtype == object:
            assert [*map(typed, first.tolist())] == [*map(typed, second.tolist())], name
        else:
            np.testing.assert_array_equal(first, second, err_msg=name)


def typed(value: object) -> tuple[type, object]:
    return type(value), value


def assert_same_hdu(found: Any, expected: Any) -> None:
    """An HDU of a collection is what `dask_fits.open` gives: everything but pixels of a grid."""
    assert (found.index, found.name, found.ver, found.kind) == (
        expected.index,
        expected.name,
        expected.ver,
        expected.kind,
    )
    assert (found.shape, found.dtype, found.compression) == (
        expected.shape,
        expected.dtype,
        expected.compression,
    )
    assert (found.header_range, found.data_range) == (expected.header_range, expected.data_range)
    assert found.store.version == expected.store.version
    assert found.chunks == expected.chunks
    assert found.to_dask().name == expected.to_dask().name
    assert same_bits(found.section[...], expected.section[...])
    assert same_bits(found.data.compute(scheduler="sync"), expected.section[...])
    assert found.header.tostring() == expected.header.tostring()


def hidden_in(secrets: Iterable[str], *things: object) -> None:
    """None of these things has a secret in it, shown or pickled."""
    for thing in things:
        for text in (repr(thing), str(thing), pickle.dumps(thing).decode("latin-1")):
            for secret in secrets:
                assert secret not in text
