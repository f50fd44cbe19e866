"""The same repositories, honest and hostile, before our client and python-tuf's: they must agree.

python-tuf's client is the reference implementation of the specification; ours differs in where the
time comes from and how files are written, never in what it accepts.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient import FetcherInterface, Updater

from fakes.clock import FakeClock
from fakes.fetcher import FakeFetcher
from fakes.tuf_site import TufSite
from skerry.devices.errors import SkerryError
from skerry.updater.trust import RepositoryClient

URL = "http://site/metadata/"
Step = Callable[[TufSite], None]


def _revoke_timestamp(site: TufSite) -> None:
    thief = site.signers["timestamp"]
    site.new_key("timestamp", replace=True)
    site.publish("root")
    site.signers["timestamp"] = thief
    site.publish("timestamp")


def _old_root_key(site: TufSite) -> None:
    old = site.signers["root"]
    site.new_key("root", replace=True)
    site.signers["root"] = old
    site.publish("root")


def _rotate_root(site: TufSite) -> None:
    old = list(site.signers["root"])
    site.new_key("root", replace=True)
    site.signers["root"] += old
    site.publish("root")


def _skip_root(site: TufSite) -> None:
    site.root.version += 1
    site.publish("root")


def _renumber_root(site: TufSite) -> None:
    site.root.version += 1
    site.files["2.root.json"] = site.sign("root").replace(b'"version":2', b'"version":1')


def _roll_back_timestamp(site: TufSite) -> None:
    site.timestamp.version = 1
    site.put("timestamp")


def _same_timestamp_other_content(site: TufSite) -> None:
    site.timestamp.snapshot_meta.version = 100
    site.put("timestamp")


def _roll_back_snapshot(site: TufSite) -> None:
    site.snapshot.version = 1
    site.timestamp.snapshot_meta = site._meta("snapshot", site.put("snapshot"))
    site.timestamp.version += 1
    site.put("timestamp")


def _roll_back_targets(site: TufSite) -> None:
    site.targets.version = 1
    site.publish("targets", bump=False)
    site.timestamp.version += 1
    site.snapshot.version += 1
    site.timestamp.snapshot_meta = site._meta("snapshot", site.put("snapshot"))
    site.put("timestamp")


def _forget_targets(site: TufSite) -> None:
    del site.snapshot.meta["targets.json"]
    site.snapshot.version += 1
    site.timestamp.snapshot_meta = site._meta("snapshot", site.put("snapshot"))
    site.timestamp.version += 1
    site.put("timestamp")


def _mix_targets(site: TufSite) -> None:
    site.publish("targets")
    site.files[f"{site.targets.version}.targets.json"] = site.files["1.targets.json"]


def _mix_snapshot(site: TufSite) -> None:
    site.publish("targets")
    site.files[f"{site.snapshot.version}.snapshot.json"] = site.files["1.snapshot.json"]


def _foreign_targets(site: TufSite) -> None:
    site.signers["targets"] = [CryptoSigner.generate_ed25519()]
    site.publish("targets")


def _threshold_two(site: TufSite) -> None:
    site.new_key("targets")
    site.root.roles["targets"].threshold = 2
    site.publish("root")
    site.signers["targets"].pop()
    site.publish("targets")


def _threshold_two_met(site: TufSite) -> None:
    site.new_key("targets")
    site.root.roles["targets"].threshold = 2
    site.publish("root")
    site.publish("targets")


def _expire(role: str) -> Step:
    def step(site: TufSite) -> None:
        site.signed[role].expires = site.after(days=-1)
        site.publish(role)

    return step


def _fast_forward_and_recover(site: TufSite) -> None:
    site.timestamp.version = 10_000
    site.put("timestamp")


def _recover(site: TufSite) -> None:
    site.new_key("timestamp", replace=True)
    site.publish("root")
    site.timestamp.version = 1
    site.put("timestamp")


def _nonsense(name: str, data: bytes) -> Step:
    def step(site: TufSite) -> None:
        site.publish("targets")
        site.files[name] = data

    return step


def _other_type(site: TufSite) -> None:
    site.files["timestamp.json"] = site.files["1.snapshot.json"]


def _endless(site: TufSite) -> None:
    site.files["timestamp.json"] = site.files["timestamp.json"] + b" " * 20_000


def _gone(site: TufSite) -> None:
    del site.files["timestamp.json"]


def _unusual(site: TufSite) -> None:
    site.targets.unrecognized_fields["custom-field"] = {"a": [1, "ä"]}
    site.root.unrecognized_fields["x"] = True
    site.publish("root")
    site.publish("targets")


def _snapshot_by_three(site: TufSite) -> None:
    site.new_key("snapshot")
    site.new_key("snapshot")
    site.root.roles["snapshot"].threshold = 3
    site.publish("root")
    site.publish("targets")


def _snapshot_by_two_of_three(site: TufSite) -> None:
    _snapshot_by_three(site)
    site.signers["snapshot"].pop()
    site.publish("targets")


def _one_key_many_names(site: TufSite) -> None:
    public = site.signers["snapshot"][0].public_key
    for number in range(5):
        alias = SSlibKey(f"{number:064x}", public.keytype, public.scheme, dict(public.keyval))
        site.root.add_key(alias, "snapshot")
    site.root.roles["snapshot"].threshold = 3
    site.publish("root")
    site.publish("targets")


def _key_of(kind: str) -> Step:
    def step(site: TufSite) -> None:
        signer = CryptoSigner.generate_ecdsa() if kind == "ecdsa" else CryptoSigner.generate_rsa()
        site.root.add_key(signer.public_key, "timestamp")
        site.signers["timestamp"] = [signer]
        site.publish("root")
        site.publish("timestamp")

    return step


def _odd_hash_algorithm(site: TufSite) -> None:
    keyid = site.root.roles["snapshot"].keyids[0]
    site.root.keys[keyid].unrecognized_fields["keyid_hash_algorithms"] = ["md5"]
    site.publish("root")
    site.publish("targets")


def _rotate(*roles: str) -> Step:
    def step(site: TufSite) -> None:
        for role in roles:
            site.new_key(role, replace=True)
        site.publish("root")
        site.publish("targets")

    return step


def _threshold_nobody_can_meet(site: TufSite) -> None:
    site.root.roles["timestamp"].threshold = 2
    site.publish("root")


CASES: dict[str, list[Step]] = {
    "nothing new": [],
    "new targets": [lambda site: site.publish("targets")],
    "many roots": [_rotate_root, lambda s: s.publish("root"), lambda s: s.publish("root")],
    "root keys rotated": [_rotate_root, lambda site: site.publish("targets")],
    "root signed by the old key alone": [_old_root_key],
    "root version skipped": [_skip_root],
    "root renumbered": [_renumber_root],
    "timestamp key revoked": [_revoke_timestamp],
    "timestamp rolled back": [lambda s: s.publish("timestamp"), _roll_back_timestamp],
    "same timestamp, other content": [_same_timestamp_other_content],
    "snapshot rolled back": [lambda s: s.publish("targets"), _roll_back_snapshot],
    "targets rolled back": [lambda s: s.publish("targets"), _roll_back_targets],
    "targets vanish from the snapshot": [_forget_targets],
    "targets of another time": [_mix_targets],
    "snapshot of another time": [_mix_snapshot],
    "targets by a stranger": [_foreign_targets],
    "threshold not met": [_threshold_two],
    "threshold met": [_threshold_two_met],
    "expired root": [_expire("root")],
    "expired targets": [_expire("targets")],
    "expired snapshot": [_expire("snapshot")],
    "expired timestamp": [_expire("timestamp")],
    "fast-forward": [_fast_forward_and_recover, lambda site: site.put("timestamp")],
    "fast-forward, then recovery by new keys": [_fast_forward_and_recover, _recover],
    "snapshot by three keys": [_snapshot_by_three],
    "snapshot by two of three keys": [_snapshot_by_two_of_three],
    "one key under many ids": [_one_key_many_names],
    "an ECDSA key": [_key_of("ecdsa")],
    "an RSA key": [_key_of("rsa")],
    "an odd keyid_hash_algorithms": [_odd_hash_algorithm],
    "snapshot key rotated": [_rotate("snapshot")],
    "targets key rotated": [_rotate("targets")],
    "every online key rotated": [_rotate("timestamp", "snapshot", "targets")],
    "a threshold nobody can meet": [_threshold_nobody_can_meet],
    "a new root, then expired": [lambda s: s.publish("root"), _expire("root")],
    "no JSON": [_nonsense("timestamp.json", b"{")],
    "JSON, no metadata": [_nonsense("timestamp.json", b"[1, 2]")],
    "deep JSON": [_nonsense("timestamp.json", b"[" * 8_000)],
    "a snapshot as timestamp": [_other_type],
    "endless timestamp": [_endless],
    "timestamp gone": [_gone],
    "fields from the future": [_unusual],
}


class _Bridge(FetcherInterface):
    def __init__(self, site: TufSite) -> None:
        self._site = site

    def _fetch(self, url: str) -> Iterator[bytes]:
        data = self._site.files.get(url.removeprefix(URL))
        if data is None:
            raise DownloadHTTPError("not found", 404)
        return iter([data])


def _ours(folder: Path, site: TufSite, root: bytes, now: float) -> bool:
    fetcher = FakeFetcher()
    fetcher.serve(URL, site.files.get)
    client = RepositoryClient(folder, fetcher, url=URL, clock=FakeClock(now))
    if not (folder / "root.json").exists():
        client.pin(root)
    try:
        client.refresh()
    except SkerryError:
        return False
    return True


def _theirs(folder: Path, site: TufSite, root: bytes) -> bool:
    folder.mkdir(exist_ok=True)
    try:
        Updater(str(folder), URL, fetcher=_Bridge(site), bootstrap=root).refresh()
    except (RepositoryError, DownloadError):
        return False
    return True


def _kept(folder: Path) -> dict[str, bytes]:
    names = ("root", "timestamp", "snapshot", "targets")
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: path.read_bytes() for name, path in paths.items() if path.exists()}


@pytest.mark.parametrize("hashes", [False, True], ids=["versions", "hashes"])
@pytest.mark.parametrize("case", CASES)
def test_ours_and_the_reference_agree(tmp_path: Path, case: str, hashes: bool) -> None:
    now = time.time()
    site = TufSite(now, hashes=hashes)
    root = site.files["1.root.json"]
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    assert _ours(ours, site, root, now)
    assert _theirs(theirs, site, root)
    for step in CASES[case]:
        step(site)
        assert _ours(ours, site, root, now) == _theirs(theirs, site, root)
        assert _kept(ours) == _kept(theirs)


# Delegations: which role says what a target is. Paths, order and `terminating` as in the suites of
# the specification's authors; `target` of ours beside `get_targetinfo` of theirs.

GRAPHS: dict[str, list[tuple[str, list[str], bool, dict[str, bytes]]]] = {
    "one role": [("a", ["*"], False, {"x": b"a"})],
    "the first that has it": [
        ("a", ["*"], False, {"x": b"a"}),
        ("b", ["*"], False, {"x": b"b"}),
    ],
    "not the first's to say": [
        ("a", ["y*"], False, {"x": b"a"}),
        ("b", ["*"], False, {"x": b"b"}),
    ],
    "terminating without it": [("a", ["*"], True, {}), ("b", ["*"], False, {"x": b"b"})],
    "terminating, other paths": [("a", ["y*"], True, {}), ("b", ["*"], False, {"x": b"b"})],
    "nobody": [("a", ["*"], False, {}), ("b", ["*"], False, {})],
    "paths in folders": [("a", ["x/*"], False, {"x": b"a"}), ("b", ["?"], False, {"x": b"b"})],
}


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("path", ["x", "y", "x/y"])
def test_ours_and_the_reference_find_the_same_target(tmp_path: Path, graph: str, path: str) -> None:
    now = time.time()
    site = TufSite(now)
    root = site.files["1.root.json"]
    for role, paths, terminating, files in GRAPHS[graph]:
        site.delegate(role, paths, terminating=terminating)
        for name, data in files.items():
            site.add_target(name, data, role)
    site.publish(*(role for role, *_ in GRAPHS[graph]), "targets")
    fetcher = FakeFetcher()
    fetcher.serve(URL, site.files.get)
    ours = RepositoryClient(tmp_path / "ours", fetcher, url=URL, clock=FakeClock(now))
    ours.pin(root)
    ours.refresh()
    (tmp_path / "theirs").mkdir()
    theirs = Updater(str(tmp_path / "theirs"), URL, fetcher=_Bridge(site), bootstrap=root)
    theirs.refresh()
    found, expected = ours.target(path), theirs.get_targetinfo(path)
    assert (found and found.hashes) == (expected and expected.hashes)
