"""The command line as ``python -m dask_fits.cli``."""

from dask_fits.cli import main

if __name__ == "__main__":
    main()
