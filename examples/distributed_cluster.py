"""Reduce a FITS image with the processes of a Dask cluster.

Needs: pip install 'dask_fits[distributed]'; no credentials, no network for a local file.

    python examples/distributed_cluster.py [PATH OR URL]        from the root of the checkout

The workers open the file by themselves: on several machines, each needs its own way to it.
"""

import sys

from dask.distributed import Client, LocalCluster

import dask_fits


def main(url: str) -> None:
    """Read an image once, into the memory of two processes, and compute with it there."""
    # For a cluster that already runs: Client("tcp://scheduler:8786").
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        image = dask_fits.from_fits(url, chunks="64 KiB")
        print(image)
        image = image.persist()
        mean, deviation, brightest = client.gather(
            client.compute([image.mean(), image.std(), image.max()])
        )
        held = [len(keys) for keys in client.has_what().values()]
        print(f"{image.npartitions} chunks, held by {len(held)} processes")
        print(f"mean: {float(mean):.3f}, standard deviation: {float(deviation):.3f}")
        print(f"brightest pixel: {brightest}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "tests/data/m13.fits")
