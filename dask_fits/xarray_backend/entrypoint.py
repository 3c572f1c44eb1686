"""The backend entry point that xarray calls for ``engine="fits"``; its imports are light."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from xarray.backends import BackendEntrypoint

from dask_fits._typing import FileSystem
from dask_fits.hints import explains_arguments

if TYPE_CHECKING:
    import xarray as xr

    from dask_fits.file.fits_file import FitsFile
    from dask_fits.file.hdu import HduKey
    from dask_fits.storage.place import FilePath
    from dask_fits.storage.transfer import TransferConfig

_NAME = re.compile(r".*\.(fits|fit|fts)(\.(fz|gz|bz2|z|xz|zst|zip))?|.*\.ftz", re.DOTALL)
"""Names of FITS files, in lower case: tile-compressed and compressed as a whole, too."""

_MAGIC = b"SIMPLE  ="
"""FITS Standard 4.0, section 4.4.1.1: the first keyword of a file, and its value indicator."""


class FitsBackendEntrypoint(BackendEntrypoint):
    """The engine ``"fits"`` of `xarray.open_dataset`, `open_datatree` and `open_groups`.

    Examples
    --------
    >>> import xarray as xr
    >>> ds = xr.open_dataset("tests/data/m13.fits", engine="fits", chunks={})
    >>> ds.PRIMARY.dims, ds.PRIMARY.shape
    (('y', 'x'), (300, 300))
    """

    description: ClassVar[str] = "FITS images, plain and tile-compressed, local and remote"
    url: ClassVar[str] = "https://fits.gsfc.nasa.gov"
    supports_groups: ClassVar[bool] = True

    @explains_arguments
    def open_dataset(  # type: ignore[override] # as all engines: with parameters of their own
        self,
        filename_or_obj: FilePath,
        *,
        drop_variables: str | Iterable[str] | None = None,
        mask_and_scale: bool | Mapping[str, bool] = True,
        hdu: HduKey | None = None,
        hdus: Sequence[HduKey] | None = None,
        world_coords: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        transfer: TransferConfig | None = None,
        filesystem: FileSystem | None = None,
        index: str | os.PathLike[str] | None = "auto",
    ) -> xr.Dataset:
        """Open the images of one pixel grid as a Dataset of lazy variables; reads headers only.

        Small tables that a WCS refers to (of distortions, or of -TAB coordinates) are read too.

        Parameters
        ----------
        filename_or_obj : str, os.PathLike or file object
            A path, or any URL that fsspec understands, or an object that has one; see
            `dask_fits.open`.
        drop_variables : str or iterable of str, optional
            Names of variables to leave out; damage that prevents reading their pixels does not
            matter then.
        mask_and_scale : bool or mapping of variable name to bool
            Apply BSCALE, BZERO and BLANK as astropy does by default; False gives the stored
            values.
        hdu : int, str or (str, int), optional
            The only HDU to open: its index, name, or name and version.
        hdus : sequence of those, optional
            The HDUs to open, all of one pixel grid. By default the images that are on the same
            grid as the file's first one; to find them, all headers of the file are read.
        world_coords : bool
            Add two-dimensional coordinates of the sky (``ra`` and ``dec``, or the others of the
            WCS), which are computed on access. Images whose WCS is not celestial get none.
        storage_options, transfer, filesystem, index
            See `dask_fits.open`.

        Returns
        -------
        xarray.Dataset
            A variable for each image, named by EXTNAME.

        Raises
        ------
        FitsError
            The file cannot be read; see `dask_fits.open` and `dask_fits.from_fits`.
        ValueError
            `hdus` are on several grids; `open_datatree` takes those.
        TypeError
            The argument is bytes, or a file that has no path or URL.
        """
        from dask_fits.xarray_backend.dataset import Options, one_dataset

        options = Options(mask_and_scale, world_coords, _name_set(drop_variables))
        file = _open(filename_or_obj, storage_options, transfer, filesystem, index)
        return one_dataset(file, _keys(hdu, hdus), options)

    @explains_arguments
    def open_groups_as_dict(  # type: ignore[override]
        self,
        filename_or_obj: FilePath,
        *,
        drop_variables: str | Iterable[str] | None = None,
        mask_and_scale: bool | Mapping[str, bool] = True,
        hdu: HduKey | None = None,
        hdus: Sequence[HduKey] | None = None,
        world_coords: bool = False,
        storage_options: Mapping[str, Any] | None = None,
        transfer: TransferConfig | None = None,
        filesystem: FileSystem | None = None,
        index: str | os.PathLike[str] | None = "auto",
    ) -> dict[str, xr.Dataset]:
        """Open all images, those of each pixel grid as one Dataset; reads headers only.

        Parameters and errors are those of `open_dataset`, except that the HDUs may be on any grids.

        Returns
        -------
        dict of str to xarray.Dataset
            A Dataset for ``"/"``, which has no variables, and one for each grid, at a path named by
            its first image.
        """
        from dask_fits.xarray_backend.dataset import Options, all_datasets

        options = Options(mask_and_scale, world_coords, _name_set(drop_variables))
        file = _open(filename_or_obj, storage_options, transfer, filesystem, index)
        return all_datasets(file, _keys(hdu, hdus), options)

    def open_datatree(  # type: ignore[override]
        self, filename_or_obj: FilePath, **options: Any
    ) -> xr.DataTree:
        """Open all images as a DataTree with a node for each pixel grid; reads headers only.

        Parameters and errors are those of `open_groups_as_dict`.
        """
        import xarray as xr

        return xr.DataTree.from_dict(self.open_groups_as_dict(filename_or_obj, **options))

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Return whether this is a FITS file, by its name, or a local file by its first bytes.

        No request is made.
        """
        # `path` is that of a file of fsspec or a path of universal_pathlib, `name` an open file's.
        name = getattr(filename_or_obj, "path", getattr(filename_or_obj, "name", None))
        if isinstance(filename_or_obj, (str, os.PathLike)):
            name = os.fspath(filename_or_obj)
        if not isinstance(name, (str, bytes)):
            return False
        name = os.fsdecode(name)
        if _NAME.fullmatch((name.partition("?")[0] if "://" in name else name).lower()):
            return True
        try:
            with Path(name).open("rb") as file:
                return file.read(len(_MAGIC)) == _MAGIC
        except (OSError, ValueError):
            return False


def _open(
    url: FilePath,
    storage_options: Mapping[str, Any] | None,
    transfer: TransferConfig | None,
    filesystem: FileSystem | None,
    index: str | os.PathLike[str] | None,
) -> FitsFile:
    """Open a file for xarray, which may have changed its path."""
    from dask_fits.file.fits_file import open as open_file

    if filesystem is not None and isinstance(url, str):
        url = _undo_absolute_path(url)
    return open_file(
        url,
        storage_options=storage_options,
        transfer=transfer,
        filesystem=filesystem,
        index=index,
    )


def _undo_absolute_path(path: str) -> str:
    """Undo that xarray made a relative path absolute, by a directory of another filesystem."""
    cwd = Path.cwd()
    return str(Path(path).relative_to(cwd)) if Path(path).is_relative_to(cwd) else path


def _keys(hdu: HduKey | None, hdus: Sequence[HduKey] | None) -> list[HduKey] | None:
    """Return the keys of the HDUs to open; None if the user gives none."""
    if hdu is None and hdus is None:
        return None
    if hdu is not None and hdus is not None:
        raise ValueError(f"expected hdu or hdus, found both: hdu={hdu!r}, hdus={hdus!r}")
    if isinstance(hdus, str):
        raise TypeError(f"hdus: expected a list of keys, found {hdus!r}; hdu= takes a single one")
    keys = [hdu] if hdu is not None else list(hdus or ())
    if not keys:
        raise ValueError("hdus: expected at least one")
    return keys


def _name_set(names: str | Iterable[Hashable] | None) -> frozenset[Hashable]:
    """Return the names of variables, of which a user may give one or several."""
    return frozenset([names] if isinstance(names, str) else names or ())
