"""A small real HTTP server on the loopback, which misbehaves as it is told."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Site:
    """What the server answers.

    Attributes:
        url: its base address, no slash at the end.
        pages: path to bytes.
        special: path to a function that is given the handler and writes the whole answer itself.
        accept: called with (method, path, body) for PUT and POST.
        requests: every (method, path, headers) that came.
    """

    url: str = ""
    pages: dict[str, bytes] = field(default_factory=dict)
    special: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    accept: Callable[[str, str, bytes], Answer] | None = None
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    site: Site

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        site = self.site
        site.requests.append(("GET", self.path, dict(self.headers)))
        if self.path in site.special:
            site.special[self.path](self)
            return
        data = site.pages.get(self.path)
        if data is None:
            self.answer(404, {}, b'{"error": "no such page"}')
            return
        asked = self.headers.get("Range", "")
        if asked:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(data):
                self.answer(416, {}, b"")
                return
            words = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self.answer(206, words, data[start:])
            return
        self.answer(200, {}, data)

    def take(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.site.requests.append((self.command, self.path, dict(self.headers)))
        accept = self.site.accept
        self.answer(*(accept(self.command, self.path, body) if accept else (405, {}, b"")))

    do_PUT = take
    do_POST = take

    def answer(self, status: int, words: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in words.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, address: object) -> None:
        """A client that leaves in the middle is what these tests are about."""


@contextmanager
def serving(certificate: Path | None = None) -> Iterator[Site]:
    """A site on a free port until the block ends; by TLS with a certificate and its `key.pem`."""
    site = Site()
    handler = type("Handler", (_Handler,), {"site": site})
    server = _Server(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, certificate.with_name("key.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
        site.url = site.url.replace("http:", "https:")
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        site.released.set()
        server.shutdown()
        server.server_close()
        thread.join()
