"""A web server on this machine, for tests of downloads: byte ranges, redirects, connections that are cut."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Handler(BaseHTTPRequestHandler):
    """Serves the server's `folder`. server.log: (path, Range, status, bytes sent) of each request; cuts: bytes after
    which each of the next answers breaks off; moved: paths to redirect, with their new address; ranges: whether Range
    is understood.
    """

    def do_GET(self, body=True):
        server, path = self.server, self.server.folder / self.path.lstrip("/")
        wanted = self.headers.get("Range")
        if self.path in server.moved:
            return self.answer(302, b"", wanted, Location=server.moved[self.path])
        if not path.is_file():
            return self.answer(404, b"", wanted)
        content, status, more = path.read_bytes(), 200, {}
        if wanted and server.ranges:
            first = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            if first >= len(content):
                return self.answer(416, b"", wanted)
            status, more = 206, {"Content-Range": f"bytes {first}-{len(content) - 1}/{len(content)}"}
            content = content[first:]
        self.answer(status, content, wanted, **more)

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def answer(self, status: int, content: bytes, wanted: str | None, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        sent = content[: self.server.cuts.pop(0)] if content and self.server.cuts else content
        self.wfile.write(sent)
        self.server.log.append((self.path, wanted, status, len(sent)))
        self.close_connection = True

    def log_message(self, *_):
        pass


@contextmanager
def served(folder: Path):
    """The server and its address; it ends with the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.log, server.cuts, server.moved, server.ranges = folder, [], [], {}, True
    server.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
