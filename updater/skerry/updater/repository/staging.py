"""Changes that wait for signatures: `DIR/staged/`, until every threshold is met.

Each file there is ordinary metadata with some of its signatures. A holder of a key takes a copy,
signs it where the key is, and brings it back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from skerry.devices.clock import Clock
from skerry.devices.errors import InputError
from skerry.updater.repository.ceremony import (
    Need,
    explained,
    merged,
    needs,
    next_root,
    replaced_keys,
    signed_also,
    unsigned,
)
from skerry.updater.repository.content import with_wrap_key
from skerry.updater.repository.founding import delegations_to
from skerry.updater.repository.keys import OnlinePublic
from skerry.updater.repository.offline import OfflineRepository
from skerry.updater.repository.signing import newest, newest_root
from skerry.updater.repository.store import FolderMetadata
from skerry.updater.trust import rules
from skerry.updater.trust.expiry import ExpiryPolicy

__all__ = ["Staging"]

_Edit = Callable[[Root], None]


class Staging:
    """The changes of one repository that are under way.

    Args:
        repository: whose.
        clock: what time it is, for expiry.
    """

    def __init__(self, repository: OfflineRepository, clock: Clock) -> None:
        self._repository, self._clock = repository, clock
        self._staged = FolderMetadata(repository.folder / "staged")

    def change_root_keys(self, edit: _Edit) -> list[str]:
        """Stage a change to the keys that sign the roots of both repositories."""
        image, director = self._roots()
        files = {"image": self._next(image, edit), "director": self._next(director, edit)}
        self._stage({f"{name}/{r.version}.root.json": r for name, r in files.items()})
        return explained(image, files["image"])

    def change_targets_keys(self, edit: _Edit) -> list[str]:
        """Stage a change to the keys that sign releases; the list of releases is signed anew."""
        image, _ = self._roots()
        root, targets = self._next(image, edit), self._repository.next_targets()
        self._stage(
            {
                f"image/{root.version}.root.json": root,
                f"image/{targets.version}.targets.json": targets,
            }
        )
        return [*explained(image, root), f"the list of releases becomes version {targets.version}"]

    def change_online_keys(self, online: OnlinePublic) -> list[str]:
        """Stage that a server signs with other keys from now on; the old ones no longer count."""
        image, director = self._roots()

        def image_edit(root: Root) -> None:
            for role in ("snapshot", "timestamp"):
                replaced_keys(role, [online.image[role]])(root)
            with_wrap_key(root, online.wrap)

        def director_edit(root: Root) -> None:
            for role, key in online.director.items():
                replaced_keys(role, [key])(root)

        new_image, new_director = self._next(image, image_edit), self._next(director, director_edit)
        targets = self._repository.next_targets()
        targets.delegations = delegations_to(online.image["deltas"])
        self._stage(
            {
                f"image/{new_image.version}.root.json": new_image,
                f"image/{targets.version}.targets.json": targets,
                f"director/{new_director.version}.root.json": new_director,
            }
        )
        said = [f"image: {line}" for line in explained(image, new_image)]
        said += [f"director: {line}" for line in explained(director, new_director)]
        said.append("patches are signed by the new server's key")
        if online.wrap:
            said.append("content keys of sealed releases are handed to the new server")
        return said

    def change_policy(self, policy: ExpiryPolicy) -> list[str]:
        """Stage another policy of expiry for devices without a clock and for carried media."""

        def edit(root: Root) -> None:
            field = dict(root.unrecognized_fields.get("skerry", {}))
            root.unrecognized_fields["skerry"] = {**field, **policy.document()}

        image, director = self._roots()
        files = {"image": self._next(image, edit), "director": self._next(director, edit)}
        self._stage({f"{name}/{r.version}.root.json": r for name, r in files.items()})
        days = policy.media_s / 86_400
        clock = "may go by signed times" if policy.clockless else "update nothing"
        return [
            f"devices whose clock is behind {clock}",
            f"on carried media, what a server signed may have expired for {days:g} days",
        ]

    def renew(self, within: float) -> list[str]:
        """Stage new versions of what expires within so many seconds; in words, what that is."""
        soon, said = self._clock.now() + within, []
        changes: dict[str, Root | Targets] = {}
        for name, root in zip(("image", "director"), self._roots(), strict=True):
            if root.expires.timestamp() < soon:
                new = self._next(root, lambda _: None)
                changes[f"{name}/{new.version}.root.json"] = new
                said.append(f"the {name} root lasts until {new.expires:%Y-%m-%d}")
        if self._repository.targets().expires.timestamp() < soon:
            targets = self._repository.next_targets()
            changes[f"image/{targets.version}.targets.json"] = targets
            said.append(f"the list of releases lasts until {targets.expires:%Y-%m-%d}")
        if changes:
            self._stage(changes)
        return said

    def release(self, targets: Targets) -> None:
        """Stage a list of releases of the next version."""
        self._stage({f"image/{targets.version}.targets.json": targets})

    def sign(self) -> None:
        """Sign everything staged with every key that is here.

        Raises:
            InputError: a key file is damaged, or its passphrase is wrong.
            UnavailableError: a token or key service does not answer.
        """
        for name, waiting in self.pending().items():
            keys = self._keys()
            ids = {keyid for need in waiting for keyid in need.waiting}
            signers = self._repository.signers(sorted(ids), keys)
            if signers:
                self._staged.write({name: signed_also(self._read(name), signers)})

    def merge(self, data: bytes) -> str:
        """Take over the signatures of a copy signed elsewhere; the name it is staged under.

        Raises:
            InputError: nothing staged is the original of that copy.
        """
        for name in self.names():
            try:
                both = merged(self._read(name), data)
            except InputError:
                continue
            self._staged.write({name: both})
            return name
        raise InputError(
            "is no copy of anything that is staged here",
            where=self._repository.folder / "staged",
            remedy="bring back the file that was copied from this folder",
        )

    def names(self) -> list[str]:
        """What is staged, `image/…` and `director/…`."""
        return [*self._staged.names("director"), *self._staged.names("image")]

    def pending(self) -> dict[str, tuple[Need, ...]]:
        """For each staged file, which signatures it has and lacks."""
        image, director = self._roots()
        staged_root = next((n for n in self._staged.names("image") if "root" in n), None)
        root = image
        if staged_root is not None:
            root = rules.parsed(Root, "root", self._read(staged_root)).signed
        found = {}
        for name in self.names():
            before = director if name.startswith("director/") else image
            data = self._read(name)
            is_root = name.endswith(".root.json")
            found[name] = needs(data, before, None) if is_root else needs(data, None, root)
        return found

    def finish(self) -> list[str]:
        """Put everything staged into place, if every threshold is met; the names, or none.

        Raises:
            InputError: something staged does not follow what is in place; nothing is put there.
        """
        pending = self.pending()
        if not pending or not all(need.met for asked in pending.values() for need in asked):
            return []
        names = sorted(pending, key=lambda name: (not name.endswith(".root.json"), name))
        for name in names:
            self._check_follows(name)
        for name in names:
            store, file = self._place(name)
            store.write({file: self._read(name)})
        self._staged.remove(names)
        return names

    def abandon(self) -> list[str]:
        """Forget everything staged; the names."""
        names = self.names()
        self._staged.remove(names)
        return names

    def _place(self, name: str) -> tuple[FolderMetadata, str]:
        """Where what is staged as `name` belongs, and under which name."""
        folder, _, file = name.partition("/")
        return self._repository.image if folder == "image" else self._repository.director, file

    def _check_follows(self, name: str) -> None:
        """It is the version after the one in place, or in place already: putting it broke off."""
        store, file = self._place(name)
        if store.read(file) == self._read(name):
            return
        version, role = file.split(".")[:2]
        current, _ = newest(store, role)
        if version != str(current + 1):
            raise InputError(
                f"does not follow version {current}, which is in place",
                where=self._repository.folder / "staged" / name,
                remedy="drop it with `skerry keys abandon`, and make the change anew",
            )

    def _roots(self) -> tuple[Root, Root]:
        return newest_root(self._repository.image), newest_root(self._repository.director)

    def _next(self, root: Root, edit: _Edit) -> Root:
        return next_root(root, self._clock.now(), self._repository.limits.root_s, edit)

    def _stage(self, files: Mapping[str, Root | Targets]) -> None:
        if self.names():
            raise InputError(
                "another change waits for signatures",
                where=self._repository.folder / "staged",
                remedy="finish it (`skerry keys status`), or drop it with `skerry keys abandon`",
            )
        self._staged.write({name: unsigned(signed) for name, signed in files.items()})

    def _keys(self) -> dict[str, Key]:
        """Every key that a present or staged root names."""
        image, director = self._roots()
        keys = {**image.keys, **director.keys}
        for name in self.names():
            if name.endswith(".root.json"):
                keys |= rules.parsed(Root, "root", self._read(name)).signed.keys
        return keys

    def _read(self, name: str) -> bytes:
        data = self._staged.read(name)
        if data is None:
            raise InputError("is gone", where=self._repository.folder / "staged" / name)
        return data
