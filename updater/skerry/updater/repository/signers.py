"""What signs: Ed25519 keys in PEM files, tokens by PKCS#11, and the key services of clouds.

Each is a `securesystemslib.signer.Signer`, which is the seam.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import Error as SecureSystemsError
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, HSMSigner, Key, Signer

from skerry.devices.errors import InputError, MissingExtraError, UnavailableError
from skerry.devices.files import write_atomically

__all__ = ["Passphrase", "is_gone", "load_key", "make_key", "open_signer", "token_key"]

_KEY_FILE_BYTES = 65_536

Passphrase = Callable[[Path], str]
"""Asked for the passphrase of an encrypted key file."""


def make_key(path: Path, passphrase: str | None = None) -> Signer:
    """Make an Ed25519 key and keep it in `path`: PKCS#8 PEM, mode 0600, encrypted if asked.

    Raises:
        InputError: there is a file already; a key is never replaced.
    """
    if path.exists():
        raise InputError("a key is here already", where=path, remedy="choose another folder")
    private = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = NoEncryption()
    if passphrase:
        encryption = BestAvailableEncryption(passphrase.encode())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_atomically(path, pem, mode=0o600)
    return CryptoSigner(private)


def load_key(path: Path, passphrase: Passphrase | None = None) -> Signer:
    """The signer of a PEM file.

    Args:
        path: a PKCS#8 private key, Ed25519, ECDSA P-256 or RSA.
        passphrase: asked if the file is encrypted.

    Raises:
        InputError: no such file, not a key, or a wrong passphrase.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_KEY_FILE_BYTES)
    except OSError as error:
        raise InputError(f"cannot read the key: {error.strerror}", where=path) from error
    secret = None
    if b"ENCRYPTED" in data:
        if passphrase is None:
            remedy = "give its passphrase with --passphrase-file"
            raise InputError("the key is encrypted", where=path, remedy=remedy)
        secret = passphrase(path).encode()
    try:
        return CryptoSigner(load_pem_private_key(data, secret))
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        remedy = "check the passphrase and the file"
        raise InputError("is not a key that can be opened", where=path, remedy=remedy) from error


def is_gone(place: str, folder: Path) -> bool:
    """Whether `place`, as `open_signer` takes it, names a file that does not exist."""
    scheme, _, name = place.partition(":")
    if scheme != "file":
        return False
    try:
        (folder / name).stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # something is there; opening it says what is wrong
    return False


def open_signer(place: str, key: Key, folder: Path, passphrase: Passphrase | None = None) -> Signer:
    """The signer of `key` at `place`.

    Args:
        place: `file:` with a path below `folder` or an absolute one, or the URI of a token
            (`hsm:…`) or key service (`awskms:…`, `gcpkms:…`, `azurekms:…`), as securesystemslib
            writes it.
        key: the public half that the signer must have.
        folder: where relative files are.
        passphrase: asked for an encrypted file or a token's PIN.

    Raises:
        InputError: no such file, a wrong passphrase, or another key than `key`.
        UnavailableError: the token or key service does not answer.
    """
    scheme, _, name = place.partition(":")
    if scheme == "file":
        signer = load_key(folder / name, passphrase)
        if signer.public_key.keyid != key.keyid:
            raise InputError("is another key than expected", where=folder / name)
        return signer

    def secret(label: str) -> str:
        if passphrase is None:
            raise InputError(f"the key needs its {label}", remedy="use --passphrase-file")
        return passphrase(Path(place))

    try:
        return Signer.from_priv_key_uri(place, key, secret)
    except (SecureSystemsError, ValueError, OSError) as error:
        raise UnavailableError(
            f"cannot reach the key: {error}", where=place, remedy="connect it and try again"
        ) from error


def token_key(label: str, number: int) -> tuple[Key, str]:
    """The key with the id `number` on the PKCS#11 token called `label`, and the URI that opens it.

    The token's library is named by the environment variable PYKCS11LIB. The key is ECDSA on P-256
    or P-384, with its public half under the same id beside it.

    Raises:
        UnavailableError: no such token or key, or the library does not load.
    """
    try:
        uri, key = HSMSigner.import_(number, label)
    except UnsupportedLibraryError as error:
        raise MissingExtraError("pkcs11", missing="python-pkcs11", needed_by="a token") from error
    except Exception as error:
        raise UnavailableError(
            f"no such key: {error}",
            where=f"token {label!r}, id {number}",
            remedy="connect the token, and set PYKCS11LIB to its library",
        ) from error
    return key, uri
