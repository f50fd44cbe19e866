"""What a blob is called where it lies and travels: plain, or sealed under a content key."""

from __future__ import annotations

from dataclasses import dataclass

from skerry.devices.digest import Descriptor, Digest
from skerry.devices.errors import InputError
from skerry.runtime.bundle.reader import Bundle
from skerry.updater.sealing.form import check_key_id, plain_size, sealed_size

__all__ = ["Parcel", "parcel_of", "parcels"]


@dataclass(frozen=True, slots=True)
class Parcel:
    """A blob, and how it is wrapped.

    Attributes:
        blob: digest and length of the plain blob: what is signed.
        key: the id of the content key it is sealed under; "" if it is plain.
    """

    blob: Descriptor
    key: str = ""

    def __post_init__(self) -> None:
        if self.key:
            check_key_id(self.key)

    @property
    def name(self) -> str:
        """`<hex>`, or `<hex>.<key id>`: on every disk, and below `/blobs/sha256/`."""
        return f"{self.blob.digest.hex}.{self.key}" if self.key else self.blob.digest.hex

    @property
    def size(self) -> int:
        """How many bytes lie on the disk and travel."""
        return sealed_size(self.blob.size) if self.key else self.blob.size


def parcel_of(name: str, size: int) -> Parcel:
    """The parcel that is called `name` and is `size` bytes long.

    Raises:
        InputError: none is.
    """
    digits, _, key = name.partition(".")
    digest = Digest.from_hex(digits)
    plain = plain_size(size) if key else size
    if plain is None:
        raise InputError(f"no sealed blob is {size} bytes long", where=digest)
    return Parcel(Descriptor(digest, plain), key)


def parcels(bundle: Bundle, key: str) -> tuple[Parcel, ...]:
    """Everything that publishing `bundle` uploads.

    Manifest and card stay plain: a server plans by them, and they hold no weights.
    """
    everything = dict.fromkeys((bundle.manifest, *bundle.descriptors()))
    shown = (bundle.manifest, bundle.card_blob)
    return tuple(Parcel(blob, "" if blob in shown else key) for blob in everything)
