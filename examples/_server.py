"""A web server for the demo: it sends byte ranges of files, and counts what it sent.

Only as much as the demo needs; object stores, and most web servers, understand byte ranges too.
"""

import re
import threading
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self


class FileServer(ThreadingHTTPServer):
    """Serve the files of a directory on 127.0.0.1 while the ``with`` block runs."""

    def __init__(self, directory: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(_Handler, directory=str(directory)))
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.clear()

    def clear(self) -> None:
        """Forget the requests until now."""
        self.requests = self.bytes = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        super().__exit__(*error)


class _Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open for more requests
    counting = threading.Lock()

    def do_GET(self) -> None:
        """Send a file, or the range of its bytes that is asked for."""
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content, size = file.read_bytes(), file.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked:
            start, last = int(asked[1]), min(int(asked[2]), size - 1)
            content = content[start : last + 1]
            self.send_response(HTTPStatus.PARTIAL_CONTENT)
            self.send_header("Content-Range", f"bytes {start}-{last}/{size}")
        else:
            self.send_response(HTTPStatus.OK)
        self.send_header("Content-Length", str(len(content)))
        # By which a client knows that the file is still the one that it opened.
        self.send_header("ETag", f'"{file.stat().st_mtime_ns:x}-{size:x}"')
        self.end_headers()
        with self.counting:
            self.server.requests += 1
            self.server.bytes += len(content)
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Print nothing: the demo tells what was asked for."""
