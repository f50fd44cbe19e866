"""A `Fleet` behind a real HTTP server on the loopback, which misbehaves where it is told to."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from fakes.operator import SERVER
from fakes.rig import DEVICE, Fleet
from skerry.devices.enrolment import AgentSettings
from skerry.devices.identity import Identity
from skerry.updater.trust import TrustedClient

FAULTS = (
    "reset",
    "cut",
    "corrupt",
    "stall",
    "404",
    "429",
    "500",
    "503",
    "redirect",
    "range",
    "endless",
    "empty",
    "garbage",
)


@dataclass
class Web:
    """The server's state.

    Attributes:
        faults: number of a request → what goes wrong with it.
        paths: every path asked for, in order.
        sent: bytes of bodies that were sent.
        slow_s: pause before each 16 KiB of a body.
    """

    fleet: Fleet
    url: str = ""
    faults: dict[int, str] = field(default_factory=dict)
    paths: list[str] = field(default_factory=list)
    sent: int = 0
    slow_s: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    web: Web

    def log_message(self, *words: object) -> None:
        pass

    def do_GET(self) -> None:
        web = self.web
        with web.lock:
            fault = web.faults.get(len(web.paths), "")
            web.paths.append(self.path)
            data = web.fleet.fetcher._find(SERVER + self.path)
        if fault:
            self.misbehave(fault, data or b"")
        elif data is None:
            self.say(404, b"no such page")
        else:
            self.serve(data)

    def serve(self, data: bytes) -> None:
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
        if not start:
            self.say(200, data)
        elif start < len(data):
            words = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            self.say(206, data[start:], words)
        else:
            self.say(416, b"")

    def misbehave(self, fault: str, data: bytes) -> None:
        half = data[: len(data) // 2]
        if fault.isdigit():
            words = {"Retry-After": "1"} if fault in {"429", "503"} else {}
            self.say(int(fault), b"not now \xff", words)
        elif fault == "redirect":
            self.say(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"})
        elif fault == "corrupt":
            self.serve(bytes([data[0] ^ 0xFF]) + data[1:] if data else b"x")
        elif fault == "range":
            words = {"Content-Range": f"bytes 7-{6 + len(data)}/{len(data) + 7}"}
            self.say(206, data, words)
        elif fault == "garbage":
            self.connection.sendall(b"\0\xff nonsense\r\n\r\n" * 10)
            self.hang_up()
        elif fault == "empty":
            self.say(200, b"")
        elif fault == "endless":
            self.endless(data)
        elif fault == "reset":
            self.hang_up()
        else:  # cut, stall
            self.say(200, half, length=max(1, len(data)))
            if fault == "stall":
                self.web.ended.wait(60)
            self.hang_up()

    def endless(self, data: bytes) -> None:
        self.send_response(200)
        self.end_headers()
        self.push(data)
        while not self.web.ended.is_set():
            self.push(b"\0" * 65_536)

    def hang_up(self) -> None:
        self.close_connection = True
        linger = b"\1\0\0\0\0\0\0\0"
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()

    def say(
        self,
        status: int,
        body: bytes,
        words: dict[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        for name, value in (words or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        for at in range(0, len(body), 16_384):
            if self.web.slow_s:
                time.sleep(self.web.slow_s)
            self.push(body[at : at + 16_384])

    def push(self, data: bytes) -> None:
        self.wfile.write(data)
        with self.web.lock:
            self.web.sent += len(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, address: object) -> None:
        """Clients that leave in the middle are what this is about."""


@contextmanager
def serving(fleet: Fleet) -> Iterator[Web]:
    """The fleet on a free port of this machine, until the block ends."""
    web = Web(fleet)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"web": web}))
    web.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def certificate(identity: Identity, now: float, days: float = 365.0) -> bytes:
    """A certificate (PEM) for the device's key, signed by itself, which began a day ago."""
    begin = datetime.fromtimestamp(now, UTC) - timedelta(days=1)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(DEVICE))])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name)
    made = made.public_key(identity.public_key).serial_number(1)
    made = made.not_valid_before(begin).not_valid_after(begin + timedelta(days=days))
    return made.sign(identity._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_home(fleet: Fleet, home: Path, url: str, **settings: Any) -> Path:
    """The home of a device that has enrolled with the server at `url`."""
    identity = Identity.create(home / "identity")
    fleet.holder = identity.public_key
    trust = TrustedClient(
        home / "trust", fleet.fetcher, device=DEVICE, server=SERVER, clock=fleet.clock
    )
    image = fleet.stage.image.read("1.root.json")
    director = fleet.stage.director.read(DEVICE, "1.root.json")
    assert image and director
    trust.enrol(image, director)
    (home / "identity/certificate.pem").write_bytes(certificate(identity, fleet.clock.now()))
    known = {"server": url, "audience": url, "device": str(DEVICE), "tenant": "main"}
    AgentSettings(**(known | settings)).save(home)
    return home
