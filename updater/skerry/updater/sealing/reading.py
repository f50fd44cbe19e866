"""Reading a sealed blob as the plain file it is, from any place, one chunk in memory."""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

from cryptography.exceptions import InvalidTag

from skerry.devices.digest import Digest
from skerry.devices.errors import TrustError
from skerry.updater.sealing.form import (
    HEADER_BYTES,
    TAG_BYTES,
    ContentKey,
    SealLimits,
    header_of,
    nonce,
    sealed_size,
)

__all__ = ["SealedFile"]


class SealedFile(io.RawIOBase):
    """The plain bytes of a sealed blob. Nothing is handed out that was not authenticated.

    Whether they are the blob that was asked for is for the caller to see by their digest.

    Args:
        file: the sealed blob, seekable; closed with this.
        digest: of the plain blob.
        key: the content key.
        limits: the longest chunk that is accepted.

    Attributes:
        size: plain bytes in all.

    Raises:
        BundleError: the file is no sealed blob.
        TrustError: it is shorter or longer than it says. While reading: a chunk does not open.
    """

    def __init__(
        self, file: BinaryIO, digest: Digest, key: ContentKey, limits: SealLimits | None = None
    ) -> None:
        self._file, self._digest, self._cipher = file, digest, key.cipher(digest)
        self._header = file.read(HEADER_BYTES)
        self._chunk_bytes, self.size = header_of(self._header, limits)
        found = file.seek(0, os.SEEK_END)
        if found != sealed_size(self.size, SealLimits(chunk_bytes=self._chunk_bytes)):
            raise TrustError(f"a sealed blob of {found} bytes, not as it says", where=digest)
        self._at, self._number, self._chunk = 0, -1, b""

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a plain offset."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        """The plain offset."""
        return self._at

    def readinto(self, buffer: Any, /) -> int:
        """Read at most one chunk's rest."""
        into = memoryview(buffer)
        number, begin = divmod(self._at, self._chunk_bytes)
        if self._at >= self.size or not len(into):
            return 0
        if number != self._number:
            self._chunk, self._number = self._open(number), number
        piece = self._chunk[begin : begin + len(into)]
        into[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        """Close the sealed file too."""
        self._file.close()
        super().close()

    def _open(self, number: int) -> bytes:
        begin = number * self._chunk_bytes
        length = min(self._chunk_bytes, self.size - begin)
        self._file.seek(HEADER_BYTES + number * (self._chunk_bytes + TAG_BYTES))
        sealed = self._file.read(length + TAG_BYTES)
        last = begin + length == self.size
        try:
            return self._cipher.decrypt(nonce(number, last=last), sealed, self._header)
        except (InvalidTag, ValueError) as error:
            raise TrustError(
                f"chunk {number} does not open: another key, or changed bytes",
                where=self._digest,
                remedy="fetch it again; if that does not help, ask for the release's key again",
            ) from error
