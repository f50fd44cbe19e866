"""What every `MetadataStore` does, in memory and in a folder."""

from pathlib import Path

import pytest

from fakes.repository import MemoryMetadata
from skerry.devices.errors import InputError
from skerry.updater.repository import FolderMetadata, MetadataStore


@pytest.fixture(params=["memory", "folder"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> MetadataStore:
    return MemoryMetadata() if request.param == "memory" else FolderMetadata(tmp_path / "m")


def test_what_is_written_is_read_and_listed(store: MetadataStore) -> None:
    assert store.names() == []
    store.write({"1.root.json": b"r", "dev-1/timestamp.json": b"t"})
    store.write({"1.root.json": b"R"})
    assert store.read("1.root.json") == b"R"
    assert store.read("dev-1/timestamp.json") == b"t"
    assert store.names() == ["1.root.json"]
    assert store.names("dev-1") == ["dev-1/timestamp.json"]
    assert store.names("dev-2") == []


def test_what_is_removed_is_gone(store: MetadataStore) -> None:
    store.write({"a.json": b"1", "b.json": b"2"})
    store.remove(["a.json", "never.json"])
    assert store.read("a.json") is None
    assert store.names() == ["b.json"]


HOSTILE = ["", "/etc/passwd", "../x", "a/../../x", "a/b/c", ".hidden", "a\0b", "a\\b", "x" * 300]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_leads_nowhere(store: MetadataStore, name: str) -> None:
    assert store.read(name) is None
    with pytest.raises(InputError):
        store.write({name: b"x"})
