"""The server's folder: what lies where, and how it is made.

HOME/fleet.json        tenant and database
HOME/fleet.db          SQLite, unless fleet.json names another database
HOME/operator.token    the first operator's token (0600)
HOME/ca/               key.pem (0600), ca.pem
HOME/keys/             online TUF keys and the wrap key (0600), online.json
HOME/content-keys/     content keys of sealed releases, wrapped for the wrap key
HOME/image/            TUF metadata of the image repository
HOME/director/         TUF metadata of the director
HOME/blobs/sha256/     manifests, artifacts, patches; sealed ones as <hex>.<key id>
HOME/ports.json        the ports taken last, so that a restart takes them again
HOME/tls/              the server's own certificate and key (0600), where it serves by TLS
HOME/server.json       where it answers now; only while it does
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.devices.files import write_atomically
from skerry.devices.ids import TenantId
from skerry.updater.repository import FolderMetadata, OnlineKeys
from skerry.updater.sealing import Keys, SealedBlobs
from skerry.updater.server.admission import OPERATOR_PREFIX, hash_token, new_token
from skerry.updater.server.ca import FleetAuthority
from skerry.updater.server.keyroom import KeyRoom
from skerry.updater.server.records import Operator
from skerry.updater.server.sql import SqlFleet, open_fleet

__all__ = ["FleetHome", "FleetSettings", "ServerAddress", "make_home"]

_FIRST_OPERATOR = "operator"


class FleetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`HOME/fleet.json`.

    Attributes:
        tenant: whose devices these are.
        database: a SQLAlchemy URL, or "" for `HOME/fleet.db`.
    """

    tenant: str = "main"
    database: str = ""


class ServerAddress(msgspec.Struct, frozen=True):
    """`HOME/server.json`: where a running server answers.

    Attributes:
        url: the base URL for devices and operators.
        mqtt: `{"host": …, "port": …}`.
        pid: of the server's process.
        ca: PEM of the authority that it is verified by; "" for the system's.
    """

    url: str
    mqtt: dict[str, str | int]
    pid: int
    ca: str = ""


@dataclass(frozen=True, slots=True)
class FleetHome:
    """The paths in one server's folder."""

    path: Path

    @property
    def token_file(self) -> Path:
        """Where the first operator's token lies."""
        return self.path / "operator.token"

    @property
    def server_file(self) -> Path:
        """Where a running server says where it answers."""
        return self.path / "server.json"

    @property
    def ports_file(self) -> Path:
        """The ports taken last."""
        return self.path / "ports.json"

    @property
    def online_file(self) -> Path:
        """The public halves of the online keys."""
        return self.path / "keys" / "online.json"

    def settings(self) -> FleetSettings:
        """Read `fleet.json`.

        Raises:
            InputError: there is none, or it is wrong.
        """
        file = self.path / "fleet.json"
        try:
            settings = msgspec.json.decode(file.read_bytes(), type=FleetSettings)
        except FileNotFoundError as error:
            raise InputError(
                "no fleet lives here", where=self.path, remedy="make one with: skerry fleet init"
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"not fleet settings: {error}", where=file) from error
        TenantId(settings.tenant)
        return settings

    def address(self) -> ServerAddress:
        """Where the server answers.

        Raises:
            InputError: none runs here.
        """
        try:
            return msgspec.json.decode(self.server_file.read_bytes(), type=ServerAddress)
        except FileNotFoundError as error:
            raise InputError(
                "no server runs on this home",
                where=self.path,
                remedy="start it with: skerry fleet serve",
            ) from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise InputError(f"malformed: {error}", where=self.server_file) from error

    def open_store(self) -> SqlFleet:
        """The fleet store; errors as `open_database`."""
        settings = self.settings()
        url = settings.database or f"sqlite:///{self.path.absolute() / 'fleet.db'}"
        return open_fleet(url, settings.tenant)

    def key_room(self) -> KeyRoom:
        """The content keys of sealed releases."""
        return KeyRoom(self.path / "content-keys", self.online_keys().wrap)

    def blobs(self, keys: Keys) -> SealedBlobs:
        """Manifests, artifacts and patches; sealed ones open with `keys`."""
        return SealedBlobs(self.path, keys)

    def image_store(self) -> FolderMetadata:
        """Metadata of the image repository."""
        return FolderMetadata(self.path / "image")

    def director_store(self) -> FolderMetadata:
        """Metadata of the director."""
        return FolderMetadata(self.path / "director")

    def online_keys(self) -> OnlineKeys:
        """The server's signing keys."""
        return OnlineKeys.load(self.path / "keys")

    def authority(self) -> FleetAuthority:
        """The fleet's certificate authority."""
        return FleetAuthority.load(self.path / "ca")


def make_home(path: Path, settings: FleetSettings, clock: Clock) -> FleetHome:
    """Make a fleet: authority, online keys, database, a first operator; last, `fleet.json`.

    Raises:
        InputError: a fleet lives here already.
        UnavailableError: the folder or the database cannot be written.
    """
    home = FleetHome(path)
    tenant = TenantId(settings.tenant)
    if (path / "fleet.json").exists():
        raise InputError("a fleet lives here already", where=path, remedy="choose another --home")
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    now = clock.now()
    if not (path / "ca" / "ca.pem").exists():
        FleetAuthority.create(path / "ca", tenant, now)
    if not home.online_file.exists():
        OnlineKeys.generate(path / "keys")
    token = new_token(OPERATOR_PREFIX)
    url = settings.database or f"sqlite:///{path.absolute() / 'fleet.db'}"
    store = open_fleet(url, settings.tenant)
    try:
        store.access.add_operator(Operator(_FIRST_OPERATOR, hash_token(token), now))
        store.audit.append("local", "fleet.init", settings.tenant, "", now)
    finally:
        store.close()
    write_atomically(home.token_file, f"{token}\n".encode(), mode=0o600)
    write_atomically(path / "fleet.json", msgspec.json.encode(settings))
    return home
