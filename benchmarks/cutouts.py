"""Speed and cost of cutouts by sky position from a web server: a single one, and two thousand.

All contenders ask the same server, open their files within the clock, and know before which image
a position is on; only `dask_fits.cutouts` finds that out by itself, and it alone reads several
images at a time: the others go one by one, as their documents show. Connections stay open from one
round to the next, as in `remote`.

- astropy: ``fits.open(url, use_fsspec=True)``, kept open, and a `Cutout2D` of the section for each
  position; with fsspec's default cache (reading ahead by 5 MiB), and with the best that was found
  at 30 ms. For one cutout, of readahead, blockcache, bytes and none with blocks of 50 kB to 5 MB,
  that is readahead with a block that the table tells. For many, with blocks up to 20 MB and sorted
  by row or not, none was clearly faster than "all", which holds the whole file in memory.
- download: a copy of each file, all of its positions turned into pixels at once, and slices. On a
  line that costs nothing, as here, it is what to beat.
- astrocut: a `FITSCutout` for each position, since it takes one at a time. Of a web server it
  downloads the file, into astropy's cache, which is empty at the start of each run; s3:// it reads
  through fsspec, by default in blocks of 50 MiB, here from the same server.
- cutout-fits: a `make_cutout` for each position, which opens the file and writes the cutout to
  another.

Who would take minutes makes fewer of the many cutouts, out of one image; rates are compared.
"""

from __future__ import annotations

import itertools
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.config import set_temp_cache
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.nddata import Cutout2D
from astropy.wcs import WCS

import dask_fits
from benchmarks.harness import Row, Table, ratio
from benchmarks.images import MIB, sky_image, write_tiled
from benchmarks.server import Cost, ServerProcess

LATENCIES = (0.0, 0.03)
SIDE, SIZE = 4096, 64
"""Of the images, and of the cutouts."""

IMAGES, COUNT = 4, 2000
EACH = COUNT // IMAGES
SCALE = 0.2
"""Seconds of arc in a pixel."""

MOST_ROUNDS = 2
"""Of many cutouts."""

FOLDER = "images"
"""On the server; to a client of S3 it is a bucket."""

OURS, SECTION = "dask_fits", "dask_fits, section"
ASTROPY, BEST, DOWNLOAD = "astropy", "astropy, best cache", "download"
ASTROCUT, ASTROCUT_S3, CUTOUT_FITS = "astrocut", "astrocut, s3", "cutout-fits"

PARTS = {ASTROCUT: EACH // 2, ASTROCUT_S3: 10, CUTOUT_FITS: 20}
"""Of many cutouts, out of one image; astrocut is charged a whole download for them."""

DEFAULT: Mapping[str, Any] = {}
WHOLE: Mapping[str, Any] = {"cache_type": "all"}
"""For many cutouts nothing was clearly faster, sorted by row or not."""

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Kind:
    """A way in which images are stored."""

    name: str
    hdu: int
    tile: tuple[int, int] | None
    best_block: int
    """The fastest block of fsspec's readahead for a single cutout, in bytes; of several that were
    as fast, a small one."""


KINDS = (
    Kind("float32", 0, None, 2_000_000),
    Kind("RICE_1, rows", 1, (1, SIDE), 500_000),
    Kind("RICE_1, 512 x 512", 1, (512, 512), 100_000),
)


@dataclass(frozen=True, slots=True)
class Target:
    """A position on one of the images."""

    image: int
    x: int
    y: int
    """First pixel of the cutout."""
    sky: SkyCoord


@dataclass(frozen=True, slots=True)
class Field:
    """Images of one kind behind the server, and positions on them."""

    kind: Kind
    folder: Path
    server: str
    targets: Sequence[Target]
    """Those of the first image, then those of the second."""
    sky: SkyCoord
    """All of them."""

    def name(self, image: int) -> str:
        """Name of an image's file in the folder."""
        return f"{KINDS.index(self.kind)}-{image}.fits"

    def url(self, image: int) -> str:
        """Address of an image."""
        return f"{self.server}/{FOLDER}/{self.name(image)}"

    def of_images(self, targets: Sequence[Target]) -> Iterator[tuple[int, list[Target]]]:
        """Group targets by their image."""
        for image, some in itertools.groupby(targets, lambda target: target.image):
            yield image, list(some)

    def expected(self, targets: Sequence[Target]) -> Iterator[Pixels]:
        """Cut out of the whole images, as astropy reads them from disk."""
        for image, some in self.of_images(targets):
            whole = fits.getdata(self.folder / FOLDER / self.name(image), self.kind.hdu)
            for target in some:
                yield whole[target.y : target.y + SIZE, target.x : target.x + SIZE]


Cut = Callable[[Field, Sequence[Target]], Sequence[Pixels]]
"""Opens the files that it needs and cuts around the targets."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a contender does."""

    cut: Cut
    count: int
    """Of the targets, from the first on."""

    def run(self, field: Field) -> Sequence[Pixels]:
        """Cut around as many targets."""
        return self.cut(field, field.targets[: self.count])


def measure_cutouts(*, rounds: int) -> Iterator[Table]:
    """Cut out around one position, then around many, of images of each kind."""
    with tempfile.TemporaryDirectory(prefix="dask-fits-bench-") as name:
        folder = Path(name)
        (folder / FOLDER).mkdir()
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            list(pool.map(partial(_write, folder), range(IMAGES)))
        with ServerProcess(folder) as server:
            targets = _targets()
            sky = SkyCoord([target.sky for target in targets])
            fields = [Field(kind, folder, server.url, targets, sky) for kind in KINDS]
            yield from _measure_one(server, fields, rounds)
            yield from _measure_many(server, fields, min(rounds, MOST_ROUNDS))


def _write(folder: Path, image: int) -> None:
    """Write one image in all kinds."""
    pixels, header = sky_image(SIDE, seed=image), _wcs(image).to_header()
    for number, kind in enumerate(KINDS):
        path = folder / FOLDER / f"{number}-{image}.fits"
        if kind.tile is None:
            fits.PrimaryHDU(pixels, header).writeto(path)
        else:
            write_tiled(path, pixels, algorithm="RICE_1", tile=kind.tile, header=header)


def _wcs(image: int) -> WCS:
    """Make the WCS of an image; they lie side by side."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = 150 + 0.3 * image, 2.0
    wcs.wcs.crpix = (SIDE + 1) / 2, (SIDE + 1) / 2
    wcs.wcs.cdelt = -SCALE / 3600, SCALE / 3600
    return wcs


def _targets() -> list[Target]:
    """Spread positions over the images, each a bit below a pixel's centre.

    So all contenders round to the same pixels.
    """
    rng = np.random.default_rng(0)
    targets = []
    for image in range(IMAGES):
        corners = rng.integers(0, SIDE - SIZE, (EACH, 2))
        sky = _wcs(image).pixel_to_world(*(corners + SIZE / 2 - 0.25).T)
        targets += [Target(image, int(x), int(y), sky[n]) for n, (x, y) in enumerate(corners)]
    return targets


def _measure_one(server: ServerProcess, fields: list[Field], rounds: int) -> Iterator[Table]:
    title = f"One cutout of {SIZE} x {SIZE} of {SIDE} x {SIDE}, open included"
    seconds = Table(title, "s")
    requests = Table("Requests of the same", "number")
    nbytes = Table("Bytes sent for the same", "MiB")
    for field in fields:
        block = field.kind.best_block
        cuts: dict[str, Cut] = {
            OURS: _one_with_ours,
            SECTION: _one_with_section,
            ASTROPY: partial(_with_astropy, DEFAULT),
            BEST: partial(_with_astropy, {"cache_type": "readahead", "block_size": block}),
            **_peers(),
        }
        jobs = {name: Job(cut, 1) for name, cut in cuts.items()}
        found, costs = _measure(server, field, jobs, rounds)
        for latency, samples in found.items():
            peers = [name for name in samples if name not in (OURS, SECTION)]
            checks = [ratio(samples, peer, OURS, **_aim(peer, latency)) for peer in peers]
            checks.append(ratio(samples, ASTROPY, SECTION, **_aim(ASTROPY, latency)))
            case = f"{field.kind.name}, {1000 * latency:.0f} ms (best: {block // 1000} kB)"
            seconds.rows.append(Row(case, samples, checks))
        _add_costs(requests, nbytes, field, jobs, costs, compared=[(OURS, ASTROPY), (OURS, BEST)])
    yield from (seconds, requests, nbytes)


def _measure_many(server: ServerProcess, fields: list[Field], rounds: int) -> Iterator[Table]:
    title = f"{COUNT} cutouts of {SIZE} x {SIZE} out of {IMAGES} images, open included"
    parts = f"where fewer are told, so many out of one image (best cache: {WHOLE['cache_type']})"
    rates = Table(f"{title}; {parts}", "cutouts/s")
    requests = Table("Requests of the same, for each cutout", "number")
    nbytes = Table("Bytes sent for the same, for each cutout", "MiB")
    all_jobs = {
        OURS: Job(_many_with_ours, COUNT),
        ASTROPY: Job(partial(_with_astropy, DEFAULT), 50),
        BEST: Job(partial(_with_astropy, WHOLE), EACH),
        DOWNLOAD: Job(_with_download, COUNT),
        **{name: Job(cut, PARTS[name]) for name, cut in _peers().items()},
    }
    told = {name: f"{name}, {job.count}" for name, job in all_jobs.items()}
    jobs = {told[name]: job for name, job in all_jobs.items()}
    for field in fields:
        found, costs = _measure(server, field, jobs, rounds)
        for latency, seconds in found.items():
            samples = {
                name: [jobs[name].count / some for some in raw] for name, raw in seconds.items()
            }
            checks = [
                ratio(samples, told[OURS], told[peer], **_aim(peer, latency))
                for peer in told
                if peer != OURS
            ]
            rates.rows.append(Row(f"{field.kind.name}, {1000 * latency:.0f} ms", samples, checks))
        compared = [(told[OURS], told[peer]) for peer in (ASTROPY, BEST)]
        _add_costs(requests, nbytes, field, jobs, costs, compared=compared)
    yield from (rates, requests, nbytes)


def _measure(
    server: ServerProcess, field: Field, jobs: Mapping[str, Job], rounds: int
) -> tuple[dict[float, dict[str, list[float]]], dict[str, list[Cost]]]:
    """Do the jobs in turn at each latency; return their seconds at each, and all their costs."""
    _check_equal(server, field, jobs)
    contenders = {name: partial(job.run, field) for name, job in jobs.items()}
    found: dict[float, dict[str, list[float]]] = {}
    costs: dict[str, list[Cost]] = defaultdict(list)
    for latency in LATENCIES:
        server.be(latency=latency)
        found[latency], added = server.measure(contenders, rounds=rounds)
        for name, some in added.items():
            costs[name] += some
    return found, costs


def _aim(peer: str, latency: float) -> dict[str, float]:
    """Ours should be no slower over a line, except than a download, to which it costs nothing."""
    return {"at_least": 1} if latency and peer not in (DOWNLOAD, ASTROCUT) else {}


def _add_costs(
    requests: Table,
    nbytes: Table,
    field: Field,
    jobs: Mapping[str, Job],
    costs: Mapping[str, Sequence[Cost]],
    *,
    compared: Sequence[tuple[str, str]],
) -> None:
    """Add what each job cost the server, for each of its cutouts."""
    asked = {
        name: [cost.requests / jobs[name].count for cost in some] for name, some in costs.items()
    }
    sent = {
        name: [cost.nbytes / MIB / jobs[name].count for cost in some]
        for name, some in costs.items()
    }
    for table, samples in ((requests, asked), (nbytes, sent)):
        checks = [ratio(samples, over, under) for over, under in compared]
        table.rows.append(Row(field.kind.name, samples, checks))


def _check_equal(server: ServerProcess, field: Field, jobs: Mapping[str, Job]) -> None:
    """Make sure that all cut the pixels of the whole image, to the bit."""
    server.be(latency=0)
    for name, job in jobs.items():
        found = np.array(job.run(field), np.float32)
        expected = np.array(list(field.expected(field.targets[: job.count])), np.float32)
        if found.shape != expected.shape or found.tobytes() != expected.tobytes():
            raise AssertionError(f"{field.kind.name}: {name} cuts out other pixels")


def _one_with_ours(field: Field, targets: Sequence[Target]) -> Sequence[Pixels]:
    (target,) = targets
    hdu = dask_fits.open(field.url(target.image))[field.kind.hdu]
    return [hdu.cutout(target.sky, SIZE).data.compute()]


def _one_with_section(field: Field, targets: Sequence[Target]) -> Sequence[Pixels]:
    (target,) = targets
    hdu = dask_fits.open(field.url(target.image))[field.kind.hdu]
    return [Cutout2D(hdu.section, target.sky, SIZE, wcs=hdu.wcs).data]


def _many_with_ours(field: Field, _: Sequence[Target]) -> Sequence[Pixels]:
    urls = [field.url(image) for image in range(IMAGES)]
    found: Sequence[Pixels] = dask_fits.cutouts(urls, field.sky, SIZE).data.compute()
    return found


def _with_astropy(
    options: Mapping[str, Any], field: Field, targets: Sequence[Target]
) -> Sequence[Pixels]:
    found: list[Pixels] = []
    for image, some in field.of_images(targets):
        with fits.open(field.url(image), use_fsspec=True, fsspec_kwargs=dict(options)) as hdus:
            hdu = hdus[field.kind.hdu]
            wcs = WCS(hdu.header)
            found += [Cutout2D(hdu.section, target.sky, SIZE, wcs=wcs).data for target in some]
    return found


def _with_download(field: Field, targets: Sequence[Target]) -> Sequence[Pixels]:
    found, done = [], 0
    for image, some in field.of_images(targets):
        sky = field.sky[done : done + len(some)]
        done += len(some)
        with tempfile.NamedTemporaryFile(dir=field.folder) as copy:
            urllib.request.urlretrieve(field.url(image), copy.name)
            with fits.open(copy.name) as hdus:
                hdu = hdus[field.kind.hdu]
                centres = np.stack(WCS(hdu.header).world_to_pixel(sky), axis=1)
                for x, y in np.ceil(centres - SIZE / 2).astype(int):
                    found.append(hdu.data[y : y + SIZE, x : x + SIZE].astype(np.float32))
    return found


def _peers() -> dict[str, Cut]:
    """Give the contenders that are installed."""
    peers: dict[str, Cut] = {}
    if find_spec("astrocut"):
        peers |= {ASTROCUT: _with_astrocut, ASTROCUT_S3: _with_astrocut_from_s3}
    if find_spec("cutout_fits"):
        peers[CUTOUT_FITS] = _with_cutout_fits
    return peers


def _with_astrocut(field: Field, targets: Sequence[Target]) -> Sequence[Pixels]:
    from astrocut import FITSCutout

    with tempfile.TemporaryDirectory(dir=field.folder) as cache, set_temp_cache(cache):
        return [
            FITSCutout([url], target.sky, SIZE).cutouts_by_file[url][0].data
            for target in targets
            for url in [field.url(target.image)]
        ]


def _with_astrocut_from_s3(field: Field, targets: Sequence[Target]) -> Sequence[Pixels]:
    from astrocut import FITSCutout

    options = {"endpoint_url": field.server}
    return [
        FITSCutout([url], target.sky, SIZE, fsspec_kwargs=options).cutouts_by_file[url][0].data
        for target in targets
        for url in [f"s3://{FOLDER}/{field.name(target.image)}"]
    ]


def _with_cutout_fits(field: Field, targets: Sequence[Target]) -> Sequence[Pixels]:
    """Cut with a radius half a pixel short of the half: it rounds outwards."""
    from cutout_fits import make_cutout

    radius = (SIZE - 1) / 2 * SCALE / 60
    found = []
    with tempfile.NamedTemporaryFile(dir=field.folder, suffix=".fits") as out:
        for target in targets:
            where = field.url(target.image), out.name, target.sky.ra.deg, target.sky.dec.deg
            hdus = make_cutout(*where, radius, overwrite=True, disable_progress=True)
            found.append(hdus[field.kind.hdu].data)
    return found
