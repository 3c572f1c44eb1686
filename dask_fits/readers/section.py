"""An image HDU as astropy's `Section`, which reads NumPy arrays as it is indexed."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
from astropy.io import fits

from dask_fits._typing import Key
from dask_fits.readers.reader import PixelReader


class Section(fits.Section):  # type: ignore[misc] # astropy has no types
    """The pixels of an image HDU, plain or tile-compressed, as NumPy arrays.

    ``section[key]`` reads the pixels that the key needs and no others, each time. It replaces
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

    def __array__(
        self,
        dtype: npt.DTypeLike | None = None,
        copy: bool | None = None,  # noqa: FBT001 (NumPy's)
    ) -> npt.NDArray[Any]:
        """Read all pixels for NumPy, which otherwise indexes the section row by row."""
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
            The pixels cannot be read.
        """
        return self._reader[key]

    def __setitem__(self, key: Key, value: object) -> NoReturn:
        """Raise TypeError with what to write instead: a section holds no pixels to change."""
        raise TypeError("a section is only read; hdu.data[...] = x changes the pixels in memory")
