"""Registry of the decoders: those that numba compiles if it is installed, else astropy's."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, NamedTuple


class Decoder(NamedTuple):
    """A decoder, and which arrays it fills."""

    decode: Callable[..., None]
    strided: bool
    """Whether it fills arrays that are not C-contiguous, and of any type."""


DecoderName = Literal["RICE_1", "PLIO_1", "HCOMPRESS_1", "unquantize"]
"""Algorithms for which there is a compiled decoder and another one."""


@cache
def decoder(name: DecoderName) -> Decoder:
    """Load a decoder. The first tile of an algorithm does so: numba takes a second or two."""
    try:
        return _load_compiled(name)
    except ImportError:
        return _load_fallback(name)


def _load_compiled(name: DecoderName) -> Decoder:
    """Load the decoder that numba compiles; raise ImportError without numba."""
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


def _load_fallback(name: DecoderName) -> Decoder:
    """Load the decoder that does without numba."""
    if name == "unquantize":
        from dask_fits.codecs import quantize_numpy

        return Decoder(quantize_numpy.unquantize, strided=False)
    from dask_fits.codecs import astropy_c

    decoders: dict[DecoderName, Callable[..., None]] = {
        "RICE_1": astropy_c.decode_rice,
        "PLIO_1": astropy_c.decode_plio,
        "HCOMPRESS_1": astropy_c.decode_hcompress,
    }
    return Decoder(decoders[name], strided=True)
