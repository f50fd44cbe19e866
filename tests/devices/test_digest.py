import hashlib
from pathlib import Path

import pytest

from skerry.devices.digest import Descriptor, Digest, digest_file
from skerry.devices.errors import DigestMismatch, InputError


@pytest.mark.parametrize(
    "text", ["", "sha256:", "sha256:" + "A" * 64, "sha512:" + "0" * 64, "sha256:" + "0" * 64 + "\n"]
)
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(InputError):
        Digest(text)


def test_other_content_is_refused() -> None:
    with pytest.raises(DigestMismatch, match=r"model\.onnx"):
        Digest.of(b"one").check(b"two", where="model.onnx")


def test_a_file_is_digested_whole(tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    (tmp_path / "f").write_bytes(data)
    expected = Descriptor(Digest.from_hex(hashlib.sha256(data).hexdigest()), len(data))
    assert digest_file(tmp_path / "f") == expected
