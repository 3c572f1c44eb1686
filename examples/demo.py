"""Show the command line on a real FITS file behind a real HTTP server.

Needs: pip install 'dask_fits[cli,http]'; no credentials and no network, the server is this process.

    make demo
    python -m examples.demo [OUTPUT DIRECTORY]      from the root of the checkout

Starts a small web server (_server.py) on 127.0.0.1, runs dask-fits on tests/data/m13.fits through
it, tells what the server saw, and leaves a picture in demo-output/.
"""

import os
import shlex
import subprocess
import sys
from pathlib import Path

from examples._server import FileServer

DATA = Path(__file__).parents[1] / "tests" / "data"
CHUNK_SIZE = {"DASK_ARRAY__CHUNK_SIZE": "64KiB"}
"""So small that this small image has several chunks; Dask's own default is 128 MiB."""


def main(output: Path) -> int:
    """Run every step; return the exit code of the first that fails, else 0."""
    output.mkdir(parents=True, exist_ok=True)
    picture = output / "m13.png"
    with FileServer(DATA) as server:
        url = f"{server.url}/m13.fits"
        packed = f"{server.url}/m13_rice.fits"
        print(f"A web server with {DATA / 'm13.fits'}: {url}", flush=True)
        steps = [
            ("What is in the file?", {}, ["info", url]),
            ("What does a cutout cost?", {}, ["plan", url, "--key", "100:110,200:220"]),
            ("And the whole image, chunk by chunk?", CHUNK_SIZE, ["plan", url, "--chunks"]),
            ("All pixels, several chunks at a time", CHUNK_SIZE, ["stats", url]),
            ("A picture", {}, ["preview", url, "-o", str(picture)]),
            ("The same image, tile-compressed", {}, ["stats", packed]),
            ("A cutout of that", {}, ["plan", packed, "--key", "100:110,200:220"]),
        ]
        for title, settings, arguments in steps:
            print(f"\n# {title}", flush=True)
            server.clear()
            code = run(arguments, settings)
            print(f"  -> the server saw {seen(server)}", flush=True)
            if code:
                print(f"demo: that step failed with exit code {code}", file=sys.stderr)
                return code
    print(f"\nThe picture is in {picture}")
    return 0


def run(arguments: list[str], settings: dict[str, str]) -> int:
    """Print a command line as one would type it, and run it."""
    typed = [*(f"{name}={value}" for name, value in settings.items()), "dask-fits"]
    print("$", " ".join(typed), shlex.join(arguments), flush=True)
    command = [sys.executable, "-m", "dask_fits.cli", *arguments]
    return subprocess.run(command, env=os.environ | settings, check=False).returncode  # noqa: S603


def seen(server: FileServer) -> str:
    """Count the requests, and what was sent for them."""
    plural = "" if server.requests == 1 else "s"
    return f"{server.requests} request{plural} and sent {server.bytes:,} bytes"


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output")))
