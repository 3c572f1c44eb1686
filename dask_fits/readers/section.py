"""An image HDU as astropy's `Section`: NumPy arrays, read when they are asked for."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
from astropy.io import fits

from dask_fits._typing import Key
from dask_fits.readers.reader import PixelReader


class Section(fits.Section):  # type: ignore[misc] # astropy has no types
    """The pixels of an image HDU, plain or tile-compressed, as NumPy arrays.

    ``section[key]`` reads what the key needs, and nothing else, at the time. It takes the place of
    ``astropy.io.fits.ImageHDU.section`` and ``CompImageHDU.section``: `astropy.nddata.Cutout2D`
    accepts it for its data, and reads the cutout alone. It holds no handle, can be pickled, and
    used by several threads at a time.

    Examples
    --------
    >>> import dask_fits
    >>> section = dask_fits.open("tests/data/m13.fits")[0].section
    >>> section.shape, section.ndim, section.dtype
    ((300, 300), 2, dtype('float32'))
    >>> section[100:102, 200:203].shape
    (2, 3)
    """

    def __init__(self, reader: PixelReader) -> None:
        self._reader = reader

    @property
    def shape(self) -> tuple[int, ...]:
        """Array shape, NumPy order."""
        return self._reader.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._reader.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the pixels, in native byte order."""
        return self._reader.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<Section shape={self.shape} dtype={self.dtype}>"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:  # noqa: FBT001 (NumPy's)
        """Read all pixels, where NumPy wants an array: row by row it would take the section for."""
        if copy is False:
            raise ValueError("a section holds no pixels: an array of them is always a new one")
        pixels = self._reader[...]
        return np.asarray(pixels if dtype is None else pixels.astype(dtype, copy=False))

    def __getitem__(self, key: Key) -> Any:
        """Read pixels.

        Parameters
        ----------
        key : int, slice, Ellipsis, None, 1-D list of int or bool, or a tuple of these
            As for a NumPy array.

        Returns
        -------
        numpy.ndarray or scalar
            A new array in native byte order.

        Raises
        ------
        IndexError
            As NumPy does.
        FitsError
            The pixels cannot be had.
        """
        return self._reader[key]

    def __setitem__(self, key: Key, value: Any) -> NoReturn:
        """Say what to write: a section holds no pixels that could be changed."""
        raise TypeError("a section is only read; hdu.data[...] = x changes the pixels in memory")
