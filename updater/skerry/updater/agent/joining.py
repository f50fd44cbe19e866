"""`skerry agent enrol`: this device joins a fleet, with a claim file from its operator."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import msgspec

from skerry.devices.clock import SystemClock
from skerry.devices.digest import Digest
from skerry.devices.enrolment import (
    ENROLMENT_LIMIT_BYTES,
    SERVER_CA,
    AgentSettings,
    Enrolled,
    enrol,
)
from skerry.devices.errors import InputError, TrustError, UnavailableError
from skerry.devices.files import write_atomically
from skerry.devices.ids import DeviceId
from skerry.devices.lock import exclusive
from skerry.devices.output import Output
from skerry.devices.probe import probe
from skerry.updater.fetch import HttpFetcher, plainly
from skerry.updater.trust.device import TrustedClient

__all__ = ["Claim", "join"]

_CLAIM_LIMIT_BYTES = 65_536


class Claim(msgspec.Struct, frozen=True):
    """A claim file.

    Attributes:
        token: lets one device in, once.
        server: the server's URL, or "".
        image_root, director_root: SHA-256 (hex) of the root metadata to trust, or "" to trust the
            server's word at enrolment.
        ca: PEM of the authority that the server is verified by; "" for the system's.
    """

    token: str
    server: str = ""
    image_root: str = ""
    director_root: str = ""
    ca: str = ""

    @classmethod
    def read(cls, path: Path) -> Claim:
        """Read a claim file.

        Raises:
            InputError: there is none, or it is malformed.
        """
        try:
            with path.open("rb") as file:
                data = file.read(_CLAIM_LIMIT_BYTES)
            return msgspec.json.decode(data, type=cls)
        except OSError as error:
            raise InputError(f"cannot read: {error.strerror}", where=path) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InputError(
                f"not a claim file: {error}", where=path, remedy="ask the operator for another"
            ) from error


def join(args: argparse.Namespace, output: Output) -> int:
    """Enrol with the arguments of the command line."""
    claim = Claim.read(args.claim)
    server = (args.server or claim.server).rstrip("/")
    if not server:
        raise InputError("no server is named", where=args.claim, remedy="name it with --server")
    home: Path = args.home
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise UnavailableError(f"cannot make the folder: {error.strerror}", where=home) from error
    with exclusive(home / "agent.lock"):
        settings = _enrol(home, server, claim, args.name, args.http)
    output.result(
        {"device": settings.device, "tenant": settings.tenant, "home": str(home)},
        f"this device is {settings.device} of {settings.tenant}\n"
        f"next: skerry agent run --home {home}",
    )
    return 0


def _enrol(home: Path, server: str, claim: Claim, name: str, http: str) -> AgentSettings:
    fetcher = HttpFetcher(ca=claim.ca)

    def post(url: str, body: bytes) -> bytes:
        return fetcher.send(
            "POST",
            url,
            body,
            content_type="application/json",
            max_bytes=ENROLMENT_LIMIT_BYTES,
        )

    def pin(answer: Enrolled, image: bytes, director: bytes) -> None:
        _check_root(image, claim.image_root, "image")
        _check_root(director, claim.director_root, "director")
        folder = home / "trust"
        shutil.rmtree(folder, ignore_errors=True)  # of an enrolment that broke off here
        trust = TrustedClient(
            folder, fetcher, device=DeviceId(answer.device), server=server, clock=SystemClock()
        )
        if claim.ca:
            write_atomically(home / SERVER_CA, claim.ca.encode())
        trust.enrol(image, director)

    try:
        with plainly():
            return enrol(
                home, server, claim.token, post, pin, profile=probe(), name=name, http=http
            )
    finally:
        fetcher.close()


def _check_root(metadata: bytes, expected: str, which: str) -> None:
    if expected and Digest.of(metadata).hex != expected:
        raise TrustError(
            f"the server's {which} root is not the one the claim file names",
            where="enrolment",
            remedy="this may be another server than the operator's; ask the operator",
        )
