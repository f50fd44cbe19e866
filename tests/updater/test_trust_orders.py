"""Whose orders a device follows: every kind of key that may sign its releases, and no other."""

import base64
import json

import pytest
from securesystemslib.signer import CryptoSigner, Signer

from fakes.tuf_site import TufSite
from skerry.devices.errors import TrustError
from skerry.runtime.capture_order import CaptureOrder, verified_order
from skerry.updater.repository.orders import enveloped
from skerry.updater.trust.orders import order_keys

NOW = 1_800_000_000.0
ORDER = CaptureOrder(id="o-1", device="quay", model="m", until=NOW + 9, calls=3, bytes=99)


def _signed(*signers: Signer) -> bytes:
    return enveloped(ORDER, signers)


@pytest.mark.parametrize(
    "signer",
    [
        CryptoSigner.generate_ed25519(),
        CryptoSigner.generate_ecdsa(),  # as tokens hold them
        CryptoSigner.generate_rsa(),
    ],
    ids=["Ed25519", "P-256", "RSA"],
)
def test_every_key_that_signs_releases_signs_orders(signer: Signer) -> None:
    site = TufSite(NOW)
    first = site.signers["targets"][0]
    site.root.add_key(signer.public_key, "targets")
    site.root.roles["targets"].threshold = 2
    site.publish("root")
    known = order_keys(site.files["2.root.json"], NOW)
    assert known.threshold == 2

    def verified(envelope: bytes) -> str:
        return verified_order(
            envelope, known.keys, device="quay", now=NOW, threshold=known.threshold
        ).id

    assert verified(_signed(first, signer)) == "o-1"
    with pytest.raises(TrustError, match="signed by 1"):
        verified(_signed(signer, signer))
    with pytest.raises(TrustError, match="signed by 1"):
        verified(_signed(signer, CryptoSigner.generate_ecdsa()))


def test_a_key_of_another_role_signs_none() -> None:
    site = TufSite(NOW)
    known = order_keys(site.files["1.root.json"], NOW)
    with pytest.raises(TrustError, match="signed by 0"):
        verified_order(
            _signed(site.signers["timestamp"][0]), known.keys, device="quay", now=NOW, threshold=1
        )


@pytest.mark.parametrize("length", [0, 1, 63, 65, 600])
def test_a_signature_of_any_length_is_refused_not_a_fault(length: int) -> None:
    site = TufSite(NOW)
    known = order_keys(site.files["1.root.json"], NOW)
    document = json.loads(_signed(site.signers["targets"][0]))
    document["signatures"][0]["sig"] = base64.b64encode(b"x" * length).decode()
    with pytest.raises(TrustError, match="signed by 0"):
        verified_order(json.dumps(document).encode(), known.keys, device="quay", now=NOW)
