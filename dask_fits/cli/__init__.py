"""The command line: ``dask-fits``."""

import sys


def main() -> None:
    """Run the command line; the console script ``dask-fits``."""
    try:
        import click  # noqa: F401 (whether it is there)
    except ImportError:
        sys.exit("dask-fits: click is not installed: pip install 'dask_fits[cli]'")
    from dask_fits.cli.program import main as run

    run()
