"""Copies of files, beside the originals."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
from astropy.io import fits

from tests.support.fits_files import same_bits


def native(values: Any) -> np.ndarray:
    """A copy in native byte order."""
    return np.asarray(values).astype(values.dtype.newbyteorder("="))


def check_images(found: bytes, original: bytes, *, scaled: bool) -> int:
    """All images have the same values, or stored values, for astropy; returns how many there are."""
    count = 0
    options: dict[str, Any] = {} if scaled else {"do_not_scale_image_data": True}
    with (
        warnings.catch_warnings(),
        fits.open(io.BytesIO(found), **options) as after,
        fits.open(io.BytesIO(original), **options) as before,
    ):
        warnings.simplefilter("ignore")
        assert len(after) == len(before)
        for one, other in zip(after, before, strict=True):
            assert not isinstance(one, fits.CompImageHDU)
            # astropy's name of a compressed image that has none.
            names = {hdu.name or "COMPRESSED_IMAGE" for hdu in (one, other)}
            assert (len(names), one.ver) == (1, other.ver)
            if other.is_image and other.shape and not isinstance(other, fits.GroupsHDU):
                assert same_bits(native(one.data), native(other.data))
                count += 1
    return count
