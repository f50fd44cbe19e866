"""The conformance client, as an outside suite calls it."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from fakes.site import Site, serving
from fakes.tuf_site import TufSite
from skerry.updater.conformance import main

ODD_ROLES = ["?", "#", "/delegatedrole", "../delegatedrole", "ä b%41"]


class Suite:
    """One repository behind a real server, and one client's folders."""

    def __init__(self, site: Site, folder: Path, *, consistent: bool = True) -> None:
        self.site, self.folder = site, folder
        self.repo = TufSite(time.time(), consistent=consistent)
        self.root = folder / "trusted.json"
        self.root.write_bytes(self.repo.files["1.root.json"])

    def serve(self) -> None:
        for name, data in self.repo.files.items():
            number, _, rest = name.partition(".")
            quoted = f"{number}.{quote(rest, safe='')}" if number.isdigit() else name
            self.site.pages[f"/metadata/{quoted}"] = data

    def asked(self) -> list[str]:
        paths = [path for _, path, _ in self.site.requests]
        self.site.requests.clear()
        return paths

    def run(self, command: str, *names: str) -> int:
        self.serve()
        words = ["--metadata-dir", str(self.folder / "metadata")]
        if command == "init":
            return main([*words, "init", str(self.root)])
        words += ["--metadata-url", f"{self.site.url}/metadata"]
        if command == "download":
            words += ["--target-base-url", f"{self.site.url}/targets/"]
            words += ["--target-dir", str(self.folder / "targets")]
            words += [word for name in names for word in ("--target-name", name)]
        return main([*words, command])

    def kept(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "metadata").iterdir())

    def downloaded(self) -> list[bytes]:
        folder = self.folder / "targets"
        return sorted(p.read_bytes() for p in folder.iterdir()) if folder.exists() else []

    def put_target(self, path: str, data: bytes) -> None:
        target = self.repo.add_target(path, data)
        name = target.get_prefixed_paths()[0] if self.repo.root.consistent_snapshot else path
        self.site.pages[f"/targets/{name}"] = data


@pytest.fixture
def suite(tmp_path: Path) -> Iterator[Suite]:
    with serving() as site:
        yield Suite(site, tmp_path)


def test_init_asks_nobody_and_refresh_keeps_unversioned_names(suite: Suite) -> None:
    assert suite.run("init") == 0
    assert suite.asked() == []
    assert suite.run("refresh") == 0
    assert suite.asked() == [
        "/metadata/2.root.json",
        "/metadata/timestamp.json",
        "/metadata/1.snapshot.json",
        "/metadata/1.targets.json",
    ]
    assert suite.kept() == ["root.json", "snapshot.json", "targets.json", "timestamp.json"]
    assert suite.run("refresh") == 0
    assert suite.asked() == ["/metadata/2.root.json", "/metadata/timestamp.json"]


def test_a_root_that_does_not_sign_itself_is_refused_without_a_request(suite: Suite) -> None:
    data = suite.root.read_bytes()
    suite.root.write_bytes(data.replace(b'"version":1', b'"version":2'))
    assert suite.run("init") == 0
    assert suite.run("refresh") == 1
    assert suite.asked() == []


def test_targets_come_in_order_and_only_once(suite: Suite) -> None:
    assert suite.run("init") == 0
    suite.put_target("a.txt", b"first")
    suite.put_target("deep/er/b.txt", b"second")
    suite.repo.publish()
    assert suite.run("download", "a.txt", "deep/er/b.txt") == 0
    assert suite.downloaded() == [b"first", b"second"]
    suite.asked()
    assert suite.run("download", "a.txt", "deep/er/b.txt") == 0
    assert [path for path in suite.asked() if path.startswith("/targets")] == []


def test_the_first_failure_ends_a_download(suite: Suite) -> None:
    assert suite.run("init") == 0
    suite.put_target("a.txt", b"first")
    suite.put_target("b.txt", b"second")
    suite.repo.publish()
    assert suite.run("download", "a.txt", "nothing.txt", "b.txt") == 1
    assert suite.downloaded() == [b"first"]


@pytest.mark.parametrize("evil", [b"evil!", b"longer than it was", b"", None])
def test_a_substituted_target_is_not_kept(suite: Suite, evil: bytes | None) -> None:
    assert suite.run("init") == 0
    suite.put_target("a.txt", b"first")
    suite.repo.publish()
    page = next(path for path in suite.site.pages if path.startswith("/targets"))
    if evil is None:
        del suite.site.pages[page]
    else:
        suite.site.pages[page] = evil
    assert suite.run("download", "a.txt") == 1
    assert suite.downloaded() == []


def test_a_changed_target_takes_the_place_of_the_old(suite: Suite) -> None:
    assert suite.run("init") == 0
    for content in (b"one", b"two"):
        suite.put_target("a.txt", content)
        suite.repo.publish()
        assert suite.run("download", "a.txt") == 0
        assert suite.downloaded() == [content]


def test_snapshots_need_not_be_consistent(tmp_path: Path) -> None:
    with serving() as site:
        suite = Suite(site, tmp_path, consistent=False)
        assert suite.run("init") == 0
        suite.put_target("a.txt", b"first")
        suite.repo.publish()
        assert suite.run("download", "a.txt") == 0
        assert "/targets/a.txt" in suite.asked()


@pytest.mark.parametrize("role", ODD_ROLES)
def test_an_odd_role_name_stays_a_name(suite: Suite, role: str) -> None:
    assert suite.run("init") == 0
    suite.repo.delegate(role, ["*"])
    suite.repo.publish()
    assert suite.run("download", "nothing") == 1
    assert f"/metadata/1.{quote(role, safe='')}.json" in suite.asked()
    assert len(suite.kept()) == 5
    assert sorted(path.name for path in suite.folder.iterdir()) == [
        "metadata",
        "targets",
        "trusted.json",
    ]


def test_the_order_of_delegations_decides(suite: Suite) -> None:
    assert suite.run("init") == 0
    for role in ("first", "second"):
        suite.repo.delegate(role, ["shared/*"], terminating=role == "first")
    suite.repo.add_target("shared/x", b"second", "second")
    suite.repo.publish("second", "targets")
    # The first role is terminating and has no such target, so the second is never asked.
    assert suite.run("download", "shared/x") == 1
    assert not [path for path in suite.asked() if "second" in path]


@pytest.mark.parametrize("words", [[], ["refresh"], ["--metadata-dir", "x", "dance"]])
def test_a_wrong_call_ends_with_one(words: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 1


def test_it_runs_as_a_module(suite: Suite, root: Path) -> None:
    suite.serve()
    base = [sys.executable, "-m", "skerry.updater.conformance", "--metadata-dir"]
    base.append(str(suite.folder / "metadata"))
    for words in (["init", str(suite.root)], ["--metadata-url", suite.site.url + "/metadata/"]):
        command = [*base, *words] if words[0] == "init" else [*base, *words, "refresh"]
        done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ))
        assert (done.returncode, done.stderr) == (0, "")
    assert "targets.json" in suite.kept()
