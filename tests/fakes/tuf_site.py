"""A TUF repository whose every key and byte the test holds: an attacker's workshop."""

from datetime import UTC, datetime, timedelta

from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

TOP = ("root", "targets", "snapshot", "timestamp")


class TufSite:
    """Metadata of one repository, edited in `signed`, signed with `signers`, served from `files`.

    Attributes:
        signed: role to its metadata, to be edited before `publish`.
        signers: role to the signers that `publish` uses.
        files: name to bytes, as a server would answer.
        hashes: whether snapshot and timestamp name lengths and hashes.
    """

    def __init__(self, now: float, *, hashes: bool = False, consistent: bool = True) -> None:
        self.now, self.hashes = now, hashes
        self.files: dict[str, bytes] = {}
        expires = self.after(days=30)
        self.signers: dict[str, list[Signer]] = {
            role: [CryptoSigner.generate_ed25519()] for role in TOP
        }
        root = Root(expires=expires, consistent_snapshot=consistent)
        for role in TOP:
            root.add_key(self.signers[role][0].public_key, role)
        self.signed: dict[str, Signed] = {
            "root": root,
            "targets": Targets(expires=expires),
            "snapshot": Snapshot(expires=expires),
            "timestamp": Timestamp(expires=expires),
        }
        self.publish(bump=False)

    def after(self, **delta: float) -> datetime:
        return datetime.fromtimestamp(int(self.now), UTC) + timedelta(**delta)

    @property
    def root(self) -> Root:
        found = self.signed["root"]
        assert isinstance(found, Root)
        return found

    @property
    def targets(self) -> Targets:
        found = self.signed["targets"]
        assert isinstance(found, Targets)
        return found

    @property
    def snapshot(self) -> Snapshot:
        found = self.signed["snapshot"]
        assert isinstance(found, Snapshot)
        return found

    @property
    def timestamp(self) -> Timestamp:
        found = self.signed["timestamp"]
        assert isinstance(found, Timestamp)
        return found

    def sign(self, role: str) -> bytes:
        """The role's metadata as it stands, signed with the role's signers."""
        metadata = Metadata(self.signed[role])
        for signer in self.signers[role]:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def put(self, role: str) -> bytes:
        """Sign one role and serve it, nothing else changed."""
        data = self.sign(role)
        version = self.signed[role].version
        prefixed = role != "timestamp" and (role == "root" or self.root.consistent_snapshot)
        self.files[f"{version}.{role}.json" if prefixed else f"{role}.json"] = data
        return data

    def publish(self, *roles: str, bump: bool = True) -> None:
        """Serve new versions of `roles` (targets if none is named), and what follows from it."""
        chosen = roles or (("targets",) if bump else TOP)
        for role in chosen:
            if role in {"snapshot", "timestamp"}:
                continue
            if bump:
                self.signed[role].version += 1
            data = self.put(role)
            if role != "root":
                self.snapshot.meta[f"{role}.json"] = self._meta(role, data)
        if chosen == ("root",):
            return
        if chosen != ("timestamp",):
            if bump:
                self.snapshot.version += 1
            self.timestamp.snapshot_meta = self._meta("snapshot", self.put("snapshot"))
        if bump:
            self.timestamp.version += 1
        self.put("timestamp")

    def _meta(self, role: str, data: bytes) -> MetaFile:
        version = self.signed[role].version
        return MetaFile.from_data(version, data, ["sha256"]) if self.hashes else MetaFile(version)

    def new_key(self, role: str, *, replace: bool = False) -> Signer:
        """Give `role` another key in the root, which is yet to be published."""
        if replace:
            for keyid in list(self.root.roles[role].keyids):
                self.root.revoke_key(keyid, role)
            self.signers[role] = []
        signer = CryptoSigner.generate_ed25519()
        self.root.add_key(signer.public_key, role)
        self.signers[role].append(signer)
        return signer

    def add_target(self, path: str, data: bytes, role: str = "targets") -> TargetFile:
        found = self.signed[role]
        assert isinstance(found, Targets)
        found.targets[path] = TargetFile.from_data(path, data, ["sha256"])
        return found.targets[path]

    def delegate(self, role: str, paths: list[str], *, terminating: bool = False) -> None:
        """Delegate `paths` from the top-level targets to a new role with a key of its own."""
        signer = CryptoSigner.generate_ed25519()
        self.signers[role] = [signer]
        self.signed[role] = Targets(expires=self.after(days=30))
        if self.targets.delegations is None:
            self.targets.delegations = Delegations({}, {})
        assert self.targets.delegations.roles is not None
        self.targets.delegations.roles[role] = DelegatedRole(role, [], 1, terminating, paths)
        self.targets.add_key(signer.public_key, role)
        self.snapshot.meta[f"{role}.json"] = self._meta(role, self.put(role))
