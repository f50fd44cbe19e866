"""`skerry keys` and `skerry release`, from an empty folder to a server that took the release."""

import base64
import json
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fakes.bundles import make_bundle
from fakes.clock import FakeClock
from fakes.repository import MemoryMetadata
from fakes.site import Answer, Site, serving
from skerry.cli.main import main
from skerry.devices.clock import SystemClock
from skerry.devices.digest import Digest
from skerry.devices.errors import InputError
from skerry.updater.repository import (
    DirectorRepository,
    Holders,
    ImageRepository,
    OfflineRepository,
    OnlineKeys,
    OnlinePublic,
)
from skerry.updater.repository.locking import changing
from skerry.updater.repository.staging import Staging


class Server:
    """The server's side of publishing, as thin as it can be."""

    def __init__(self, keys: OnlineKeys) -> None:
        self.blobs: dict[str, bytes] = {}
        self.image = ImageRepository(MemoryMetadata(), keys, SystemClock())
        self.director = DirectorRepository(MemoryMetadata(), keys, SystemClock())

    def accept(self, method: str, path: str, body: bytes) -> Answer:
        if method == "PUT":
            self.blobs[path.rpartition("/")[2]] = body
            return 201, {}, b""
        files = json.loads(body)
        parts = {
            kind: {name: base64.b64decode(data) for name, data in files[kind].items()}
            for kind in ("image", "director")
        }
        self.director.publish(parts["director"])
        added = self.image.publish(parts["image"])
        return 200, {}, json.dumps({"releases": [r.document() for r in added]}).encode()


@pytest.fixture
def keys(tmp_path: Path) -> OnlineKeys:
    return OnlineKeys.generate(tmp_path / "server" / "keys")


@pytest.fixture
def site(keys: OnlineKeys) -> Iterator[tuple[Site, Server]]:
    with serving() as found:
        server = Server(keys)
        found.accept = server.accept
        yield found, server


def _init(tmp_path: Path, *words: str) -> int:
    online = tmp_path / "server" / "keys" / "online.json"
    return main(["keys", "init", "--repo", str(tmp_path / "repo"), "--online", str(online), *words])


def test_a_bundle_goes_from_folder_to_server(
    tmp_path: Path, site: tuple[Site, Server], capsys: pytest.CaptureFixture[str]
) -> None:
    page, server = site
    repo = ["--repo", str(tmp_path / "repo")]
    token = tmp_path / "token"
    token.write_text("sko_secret\n")
    assert _init(tmp_path) == 0
    bundle = make_bundle(tmp_path / "bundle", version="2026.1")
    assert main(["release", "sign", str(bundle), *repo, "--json"]) == 0
    signed = json.loads(capsys.readouterr().out.split("\n", 1)[1])
    assert (signed["counter"], signed["version"]) == (1, "2026.1")
    assert signed.pop("waiting") == []
    publish = ["release", "publish", *repo, "--server", page.url, "--token-file", str(token)]
    assert main([*publish, "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["releases"] == [signed]
    assert done["blobs"] == len(server.blobs)
    assert all(Digest.of(data).hex == name for name, data in server.blobs.items())
    assert signed["manifest"].removeprefix("sha256:") in server.blobs
    assert {words["Authorization"] for _, _, words in page.requests} == {"Bearer sko_secret"}
    assert main([*publish, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"releases": [], "blobs": 0, "bytes": 0}
    other = make_bundle(tmp_path / "other", version="2026.2", shift=0.1)
    assert main(["release", "sign", str(other), *repo]) == 0
    assert main(publish) == 0
    assert [str(release.id) for release in server.image.releases()] == ["linear/1", "linear/2"]
    capsys.readouterr()
    assert main(["release", "list", *repo]) == 0
    assert "linear/2" in capsys.readouterr().out


def test_the_same_bundle_is_not_signed_twice(tmp_path: Path, keys: OnlineKeys) -> None:
    public = OnlinePublic.decode(keys.public)
    repository = OfflineRepository.create(tmp_path / "repo", public, FakeClock())
    bundle = make_bundle(tmp_path / "bundle")
    assert repository.add_release(bundle) == repository.add_release(bundle)
    later = make_bundle(tmp_path / "later", shift=0.5)
    assert repository.add_release(later).id.counter == 2
    # Going back on purpose is the old content under a new counter.
    assert repository.add_release(bundle).id.counter == 3


def test_a_damaged_bundle_is_not_signed(tmp_path: Path, keys: OnlineKeys) -> None:
    assert _init(tmp_path) == 0
    bundle = make_bundle(tmp_path / "bundle")
    largest = max((bundle / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[-1] ^= 1
    largest.write_bytes(data)
    assert main(["release", "sign", str(bundle), "--repo", str(tmp_path / "repo")]) == 4


def test_keys_are_private_and_encrypted_where_asked(tmp_path: Path, keys: OnlineKeys) -> None:
    secret = tmp_path / "secret"
    secret.write_text("correct horse\n")
    assert _init(tmp_path, "--passphrase-file", str(secret)) == 0
    for path in (tmp_path / "repo" / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert b"ENCRYPTED" in path.read_bytes()
    bundle = make_bundle(tmp_path / "bundle")
    words = ["release", "sign", str(bundle), "--repo", str(tmp_path / "repo")]
    assert main([*words, "--passphrase-file", str(secret)]) == 0
    secret.write_text("battery staple\n")
    other = make_bundle(tmp_path / "other", shift=0.5)
    words[2] = str(other)
    assert main([*words, "--passphrase-file", str(secret)]) == 2


def test_a_repository_is_never_overwritten(tmp_path: Path, keys: OnlineKeys) -> None:
    assert _init(tmp_path) == 0
    assert _init(tmp_path) == 2


@pytest.mark.parametrize("change", ["missing", "other-id", "no-json"])
def test_a_wrong_online_file_is_refused(tmp_path: Path, keys: OnlineKeys, change: str) -> None:
    document = json.loads(keys.public)
    if change == "missing":
        del document["image"]["deltas"]
    if change == "other-id":
        document["director"]["targets"]["keyid"] = "00" * 32
    data = b"{" if change == "no-json" else msgspec.json.encode(document)
    with pytest.raises(InputError):
        OnlinePublic.decode(data)


@pytest.mark.parametrize(("keys_", "threshold"), [(1, 2), (2, 0), (0, 0)])
def test_an_impossible_threshold_is_refused(keys_: int, threshold: int) -> None:
    with pytest.raises(InputError):
        Holders(root_keys=keys_, root_threshold=threshold)


def test_a_withdrawn_release_leaves_its_number_behind(tmp_path: Path, keys: OnlineKeys) -> None:
    assert _init(tmp_path) == 0
    repo = ["--repo", str(tmp_path / "repo")]
    for number in range(2):
        bundle = make_bundle(tmp_path / f"bundle-{number}", shift=number / 8)
        assert main(["release", "sign", str(bundle), *repo]) == 0
    assert main(["release", "withdraw", "linear/2", *repo]) == 2  # nobody can be asked
    assert main(["release", "withdraw", "linear/2", *repo, "--yes"]) == 0
    assert main(["release", "withdraw", "linear/2", *repo, "--yes"]) == 2
    repository = OfflineRepository(tmp_path / "repo", SystemClock())
    assert [str(release.id) for release in repository.releases()] == ["linear/1"]
    assert repository.add_release(bundle).id.counter == 3
    assert main(["keys", "verify", *repo]) == 0


def test_releases_signed_at_once_all_get_their_number(tmp_path: Path, keys: OnlineKeys) -> None:
    assert _init(tmp_path) == 0
    bundles = [make_bundle(tmp_path / f"b{n}", shift=n / 10) for n in range(3)]
    words = [sys.executable, "-m", "skerry.cli.main", "release", "sign"]
    with changing(tmp_path / "repo"):  # so that all three are there before the first may begin
        running = [
            subprocess.Popen(
                [*words, str(bundle), "--repo", str(tmp_path / "repo")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for bundle in bundles
        ]
        waits = [child.stderr.readline() for child in running if child.stderr]
    said = [child.communicate(timeout=60) for child in running]
    assert all("waiting for it" in line for line in waits)
    assert [child.returncode for child in running] == [0, 0, 0]
    assert sorted(out.split()[0] for out, _ in said) == ["linear/1", "linear/2", "linear/3"]
    repository = OfflineRepository(tmp_path / "repo", SystemClock())
    assert [one.id.counter for one in repository.releases()] == [1, 2, 3]


def test_what_was_staged_before_the_last_release_is_not_put_over_it(
    tmp_path: Path, keys: OnlineKeys
) -> None:
    assert _init(tmp_path) == 0
    repository, clock = OfflineRepository(tmp_path / "repo", SystemClock()), SystemClock()
    late = repository.next_targets()
    repository.add_release(make_bundle(tmp_path / "bundle"))
    staging = Staging(repository, clock)
    staging.release(late)
    staging.sign()
    with pytest.raises(InputError, match="does not follow version 2"):
        staging.finish()
    assert [one.id.counter for one in repository.releases()] == [1]
