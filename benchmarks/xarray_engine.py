"""Speed and cost of reading a radio cube through xarray: our engine beside the readers of others.

The cube is float32 without NaN, of (1, channels, 1024, 1024) pixels along STOKES, FREQ, DEC, RA.
Every run opens the file, and its result is compared with astropy's pixels, slices and boxes to the
bit. Who has a wrong value or an error in one of the runs of a case gets no time there but a line
under the title. Means are xarray's, which skips NaN. Dask has as many threads as the machine cores.

- dask_fits: ``xr.open_dataset(where, engine="fits", chunks={})``, which gives bands of Dask's
  `array.chunk-size`, 128 MiB; and ``chunks=None``, which reads in one thread without Dask.
- xradio: `xradio.image.open_image`, of local files only: it maps them into memory. When it opens
  one it computes the sky's coordinates of all pixels, and looks at the pixels up to the first NaN,
  here at all; "bare" is with ``do_sky_coords=False, compute_mask=False``. Its xarray engine, with
  ``chunks={}``, is the same with a chunk for each channel, and was slower.
- xarray-fits: `xarrayfits.xds_from_fits`. Local files it maps into memory. Of remote ones all
  threads read through one open file of fsspec, without a lock, and with its default cache (reading
  ahead by 5 MiB), since it takes no options for fsspec. "synchronous" is with Dask's scheduler of
  that name; a table of their own counts the wrong runs with more threads.
- astropy: its memory map as a DataArray, in one thread without Dask, whose ``da.from_array`` would
  copy all of it.

The peers' chunks are one channel where one is read, else four (16 MiB): of 1, 4, 16 and 64 channels
these took the least time, or nearly so.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import dask
import numpy as np
import numpy.typing as npt
import xarray as xr
from astropy.io import fits
from astropy.wcs import WCS

from benchmarks.harness import Check, Row, Table, clock, interleave, ratio
from benchmarks.images import MIB
from benchmarks.server import Cost, ServerProcess

LATENCIES = (0.0, 0.03)
SIDE, BOX = 1024, 64
"""Of the channels, and of a box in them."""

OURS, NO_DASK = "dask_fits", "dask_fits, no Dask"
XRADIO, XRADIO_BARE, XRADIO_SKY = "xradio", "xradio, bare", "xradio, no mask"
XARRAY_FITS, SYNCHRONOUS, ASTROPY = "xarray-fits", "xarray-fits, synchronous", "astropy"

ABSENT, WRONG = "absent", "wrong values"

Dims = tuple[str, str, str]
DIMS: Dims = ("freq", "y", "x")
XRADIO_DIMS: Dims = ("frequency", "m", "l")
XARRAY_FITS_DIMS: Dims = ("FREQ", "DEC--SIN", "RA---SIN")

Samples = Mapping[str, Sequence[float]]
"""The figures of each contender."""

Chunks = tuple[int, int, int]
"""Channels, rows and columns; -1 is all of them."""

CHANNEL, CHANNELS, BLOCK = (1, -1, -1), (4, -1, -1), (8, 256, 256)

COUNT = 10
"""Of the runs of each case whose faults are counted."""

COUNTED = ((CHANNELS, 2), (CHANNELS, 32), (CHANNEL, 2), (CHANNEL, 8), (CHANNEL, 32), (BLOCK, 2))
"""Their chunks and threads."""

OBSERVATION = {"BUNIT": "Jy/beam", "BTYPE": "Intensity", "TELESCOP": "VLA", "OBSERVER": "nobody"}
BEAM = {"OBJECT": "noise", "BMAJ": 0.0015, "BMIN": 0.001, "BPA": 30.0}
"""What xradio looks for beside the WCS."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is taken of a cube that was opened."""

    name: str
    take: Callable[[xr.DataArray, Dims], xr.DataArray] | None
    """None: nothing."""
    chunks: Chunks = CHANNELS
    """Of the peers."""
    rtol: float = 0
    """How far off a result may be: means may round in their own ways."""


def _channel(cube: xr.DataArray, dims: Dims) -> xr.DataArray:
    return cube.isel({dims[0]: cube.sizes[dims[0]] // 2})


def _box(cube: xr.DataArray, dims: Dims) -> xr.DataArray:
    return cube.isel(dict.fromkeys(dims[1:], slice((SIDE - BOX) // 2, (SIDE + BOX) // 2)))


CASES = (
    Case("open", None),
    Case("open, one channel", _channel, CHANNEL),
    Case(f"open, {BOX} x {BOX} of all channels", _box),
    Case("open, mean", lambda cube, _: cube.mean(), rtol=1e-5),
)


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to open a cube, and to compute what is taken of it."""

    open: Callable[[str, Chunks], xr.DataArray]
    dims: Dims = DIMS
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of Dask."""

    def run(self, where: str, case: Case) -> npt.NDArray | None:
        """Return what is taken, with the axes in the order of the file's."""
        cube = self.open(where, case.chunks)
        if case.take is None:
            return None
        with dask.config.set(self.config):
            found = case.take(cube, self.dims).squeeze().compute()
        found = found.transpose(*(name for name in self.dims if name in found.dims))
        return found.values.astype(np.float32, copy=False)  # reads what is a memory map


@dataclass(frozen=True, slots=True)
class Watch:
    """Runs that may go wrong, which is found out once the clock has stopped."""

    run: Callable[[], npt.ArrayLike | None]
    expected: npt.ArrayLike | None
    rtol: float = 0
    results: list[Any] = field(default_factory=list)
    """Of all runs; what it says where one ended in an error."""

    def __call__(self) -> None:
        """Run once more."""
        try:
            self.results.append(self.run())
        except Exception as error:  # noqa: BLE001 - peers may raise anything
            self.results.append(_reason(error))

    def faults(self) -> list[str]:
        """Tell what was wrong with each run that something was wrong with."""
        return [fault for result in self.results if (fault := self._fault(result))]

    def once(self) -> list[str]:
        """Run once more, and tell what was wrong with that."""
        self.results.clear()
        self()
        return self.faults()

    def _fault(self, result: Any) -> str:
        if isinstance(result, str):
            return result
        if self.expected is None:
            return ""
        if self.rtol:
            is_right = np.allclose(result, self.expected, rtol=self.rtol, atol=0)
        else:
            is_right = np.array_equal(result, self.expected)
        return "" if is_right else WRONG


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in ("xradio", "xarrayfits"):
        return ABSENT
    return f"fails: {type(error).__name__}: {error}".partition("\n")[0]


def measure_xarray(*, size_mb: int, remote_mb: int, rounds: int) -> Iterator[Table]:
    """Read a cube of `size_mb` MiB on disk, and one of `remote_mb` MiB behind a web server."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name:
        local, remote = Path(name, "local.fits"), Path(name, "remote.fits")
        _write(local, size_mb)
        _write(remote, remote_mb)
        yield _measure_local(local, rounds)
        yield _measure_sky(local, rounds)
        with ServerProcess(remote.parent) as server:
            yield from _measure_remote(server, remote, rounds)
            yield _count_faults(server, remote)


def _write(path: Path, size_mb: int) -> None:
    """Write noise on a level that tells the channel: the mean of wrong ones is another."""
    channels = size_mb * MIB // (4 * SIDE**2)
    wcs = WCS(naxis=4)
    wcs.wcs.ctype = "RA---SIN", "DEC--SIN", "FREQ", "STOKES"
    wcs.wcs.crval = 150, 30, 1.4e9, 1
    wcs.wcs.crpix = 500, 500, 1, 1
    wcs.wcs.cdelt = -1 / 3600, 1 / 3600, 1e5, 1
    wcs.wcs.restfrq, wcs.wcs.specsys, wcs.wcs.radesys = 1.420405751e9, "LSRK", "ICRS"
    wcs.wcs.dateobs, wcs.wcs.mjdobs = "2024-01-01T00:00:00.0", 60310
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 4}.items())
    header.update({"NAXIS1": SIDE, "NAXIS2": SIDE, "NAXIS3": channels, "NAXIS4": 1})
    header.update({**wcs.to_header(), **OBSERVATION, **BEAM})
    rng = np.random.default_rng(0)
    with fits.StreamingHDU(path, header) as hdu:
        for channel in range(channels):
            hdu.write(channel + rng.random((SIDE, SIDE), np.float32))
    with path.open("rb") as file:
        os.fsync(file.fileno())  # or its writing back would go on while we measure


def _measure_local(path: Path, rounds: int) -> Table:
    bare = {"do_sky_coords": False, "compute_mask": False}
    contenders = {
        OURS: Contender(partial(_ours, {})),
        NO_DASK: Contender(partial(_ours, None)),
        XRADIO: Contender(partial(_xradio, {}), XRADIO_DIMS),
        XRADIO_BARE: Contender(partial(_xradio, bare), XRADIO_DIMS),
        XARRAY_FITS: Contender(_xarray_fits, XARRAY_FITS_DIMS),
        ASTROPY: Contender(_astropy),
    }
    rows, notes = [], []
    for case in CASES:
        watches = _watches(contenders, str(path), path, case)
        rows.append(_timed_row(case.name, watches, rounds, notes))
    return Table(_title(f"A cube of {path.stat().st_size // MIB} MiB in xarray", notes), "s", rows)


def _measure_sky(path: Path, rounds: int) -> Table:
    """Compare the coordinates of the sky of all pixels, which xradio gives in radians."""
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    expected = np.array(WCS(fits.getheader(path)).celestial.pixel_to_world_values(x, y))
    eager = Watch(partial(_sky_of_xradio, path), np.radians(expected), 1e-9)
    lazy = Watch(partial(_sky_of_ours, path, is_computed=False), None)
    computed = Watch(partial(_sky_of_ours, path, is_computed=True), expected, 1e-9)
    rows, notes = [], []
    for case, ours in (("open", lazy), ("open, all computed", computed)):
        rows.append(_timed_row(case, {OURS: ours, XRADIO_SKY: eager}, rounds, notes))
        eager.results.clear()
    title = f"Coordinates of the sky of {SIDE} x {SIDE} pixels; opening xradio computes them"
    return Table(_title(title, notes), "s", rows)


def _measure_remote(server: ServerProcess, path: Path, rounds: int) -> Iterator[Table]:
    contenders = {
        OURS: Contender(partial(_ours, {})),
        NO_DASK: Contender(partial(_ours, None)),
        XARRAY_FITS: Contender(_xarray_fits, XARRAY_FITS_DIMS),
        SYNCHRONOUS: Contender(_xarray_fits, XARRAY_FITS_DIMS, {"scheduler": "synchronous"}),
    }
    seconds, notes = [], [f"{XRADIO}: local files only"]
    requests = Table("Requests of the same", "number")
    nbytes = Table("Bytes sent for the same", "MiB")
    for case in CASES:
        costs: dict[str, list[Cost]] = defaultdict(list)
        for latency in LATENCIES:
            server.be(latency=latency)
            watches = _watches(contenders, f"{server.url}/{path.name}", path, case)
            samples, added = server.measure(watches, rounds=rounds)
            name = f"{case.name}, {1000 * latency:.0f} ms"
            kept = _without_faults(name, samples, watches, notes)
            seconds.append(Row(name, kept, _ratios(kept, **({"at_least": 1} if latency else {}))))
            for contender in kept:
                costs[contender] += added[contender]
        asked = {key: [float(cost.requests) for cost in found] for key, found in costs.items()}
        sent = {key: [cost.nbytes / MIB for cost in found] for key, found in costs.items()}
        requests.rows.append(Row(case.name, asked, _ratios(asked)))
        nbytes.rows.append(Row(case.name, sent, _ratios(sent)))
    title = f"A cube of {path.stat().st_size // MIB} MiB behind a web server in xarray"
    yield from (Table(_title(title, notes), "s", seconds), requests, nbytes)


def _count_faults(server: ServerProcess, path: Path) -> Table:
    """Read all pixels on several threads, and count how often that goes wrong."""
    latency = LATENCIES[-1]
    server.be(latency=latency)
    rows, notes = [], []
    places = {f"{1000 * latency:.0f} ms": f"{server.url}/{path.name}", "local": str(path)}
    for (place, where), (chunks, threads) in product(places.items(), COUNTED):
        config = {"scheduler": "threads", "num_workers": threads}
        contenders = {
            OURS: Contender(_ours_in_chunks, DIMS, config),
            XARRAY_FITS: Contender(_xarray_fits, XARRAY_FITS_DIMS, config),
        }
        case = Case("all pixels", lambda cube, _: cube, chunks)
        shape = " x ".join("all" if length < 0 else str(length) for length in chunks)
        faults = {
            name: [fault for _ in range(COUNT) for fault in watch.once()]
            for name, watch in _watches(contenders, where, path, case).items()
        }
        wrong, theirs = float(faults[XARRAY_FITS].count(WRONG)), faults[XARRAY_FITS]
        counts = {
            f"{XARRAY_FITS}, {WRONG}": [wrong],
            f"{XARRAY_FITS}, errors": [len(theirs) - wrong],
        }
        notes += [f"{XARRAY_FITS}: {fault}" for fault in theirs if fault != WRONG]
        check = Check(f"{OURS}, wrong or error", len(faults[OURS]), at_most=0)
        row = f"{place}, chunks of {shape}, {threads} threads"
        rows.append(Row(row, {} if ABSENT in theirs else counts, [check]))
    title = f"All pixels in {COUNT} runs, compared with astropy's"
    return Table(_title(title, notes), "runs", rows)


def _watches(
    contenders: Mapping[str, Contender], where: str, path: Path, case: Case
) -> dict[str, Watch]:
    """Let contenders do a case of the file that is at `where`, and locally at `path`."""
    expected = Contender(_astropy).run(str(path), case)
    return {
        name: Watch(partial(contender.run, where, case), expected, case.rtol)
        for name, contender in contenders.items()
    }


def _timed_row(case: str, watches: Mapping[str, Watch], rounds: int, notes: list[str]) -> Row:
    timed = {name: partial(clock, watch) for name, watch in watches.items()}
    kept = _without_faults(case, interleave(timed, rounds=rounds), watches, notes)
    return Row(case, kept, _ratios(kept))


def _without_faults(
    case: str, samples: Samples, watches: Mapping[str, Watch], notes: list[str]
) -> dict[str, Sequence[float]]:
    """Drop the times of those who were wrong, and note it."""
    kept = dict(samples)
    for name, watch in watches.items():
        faults = watch.faults()
        if faults and name in (OURS, NO_DASK):
            raise AssertionError(f"{name}, {case}: {faults}")
        if faults:
            del kept[name]
        for fault, count in Counter(faults).items():
            told = f"{name}, {case}: {count} of {len(watch.results)} runs: {fault}"
            notes.append(f"{name}: {ABSENT}" if fault == ABSENT else told)
    return kept


def _title(title: str, notes: Sequence[str]) -> str:
    return "\n".join([title, *(f"  {note}" for note in dict.fromkeys(notes))])


def _ratios(samples: Samples, **aim: float) -> list[Check]:
    peers = [name for name in samples if name not in (OURS, NO_DASK)]
    return [ratio(samples, peer, OURS, **aim) for peer in peers]


def _ours(dask_chunks: Mapping[str, int] | None, where: str, _: Chunks) -> xr.DataArray:
    return xr.open_dataset(where, engine="fits", chunks=dask_chunks).PRIMARY


def _ours_in_chunks(where: str, chunks: Chunks) -> xr.DataArray:
    with warnings.catch_warnings():  # of xarray: these are not the chunks that the engine prefers
        warnings.simplefilter("ignore", UserWarning)
        return _ours(dict(zip(DIMS, chunks, strict=True)), where, chunks)


def _xradio(options: Mapping[str, bool], where: str, chunks: Chunks) -> xr.DataArray:
    from xradio.image import open_image

    return open_image(where, chunks=dict(zip(XRADIO_DIMS, chunks, strict=True)), **options).SKY


def _xarray_fits(where: str, chunks: Chunks) -> xr.DataArray:
    from xarrayfits import xds_from_fits

    return xds_from_fits(where, chunks=dict(enumerate((1, *chunks))))[0].hdu


def _astropy(where: str, _: Chunks) -> xr.DataArray:
    return xr.DataArray(fits.getdata(where), dims=("stokes", *DIMS))


def _sky_of_ours(path: Path, *, is_computed: bool) -> Sequence[npt.NDArray] | None:
    dataset = xr.open_dataset(path, engine="fits", chunks={}, world_coords=True)
    if not is_computed:
        return None
    sky = dataset[["ra", "dec"]].compute()
    return (sky.ra.values, sky.dec.values)


def _sky_of_xradio(path: Path) -> Sequence[npt.NDArray]:
    from xradio.image import open_image

    dataset = open_image(str(path), compute_mask=False)
    return (dataset.right_ascension.values.T, dataset.declination.values.T)
