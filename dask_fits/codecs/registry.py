"""Which decoders are used: those compiled by numba where it is installed, else astropy's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple


class Decoder(NamedTuple):
    """A way to decode."""

    decode: Callable[..., None]
    strided: bool
    """Whether it fills arrays that are not C-contiguous, and of any type."""


Name = Literal["RICE_1", "PLIO_1", "HCOMPRESS_1", "unquantize"]
"""What there are two decoders for."""


@cache
def decoder(name: Name) -> Decoder:
    """Load a decoder when the first tile needs it: that takes numba a second or two."""
    try:
        return _compiled(name)
    except ImportError:
        return _plain(name)


def _compiled(name: Name) -> Decoder:
    if name == "RICE_1":
        from dask_fits.codecs import rice

        return Decoder(rice.decode, strided=False)
    if name == "PLIO_1":
        from dask_fits.codecs import plio

        return Decoder(plio.decode, strided=False)
    if name == "HCOMPRESS_1":
        from dask_fits.codecs import hcompress

        return Decoder(hcompress.decode, strided=False)
    from dask_fits.codecs import quantize

    return Decoder(quantize.unquantize, strided=False)


def _plain(name: Name) -> Decoder:
    if name == "unquantize":
        from dask_fits.codecs import quantize_numpy

        return Decoder(quantize_numpy.unquantize, strided=False)
    from dask_fits.codecs import astropy_c

    decoders: dict[Name, Callable[..., None]] = {
        "RICE_1": astropy_c.decode_rice,
        "PLIO_1": astropy_c.decode_plio,
        "HCOMPRESS_1": astropy_c.decode_hcompress,
    }
    return Decoder(decoders[name], strided=True)
