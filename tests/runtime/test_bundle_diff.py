from pathlib import Path

import msgspec

from fakes.bundles import make_bundle
from skerry.devices.output import Output
from skerry.runtime.bundle.card import TensorSpec
from skerry.runtime.bundle.diff import diff
from skerry.runtime.bundle.reader import Bundle
from skerry.runtime.commands import diff as command


def test_a_bundle_is_the_same_as_itself(tmp_path: Path) -> None:
    bundle = Bundle.open(make_bundle(tmp_path / "a"))
    found = diff(bundle, bundle)
    assert found.same
    assert found.compatible
    assert (found.artifacts, found.documents, found.new_bytes) == ((), (), 0)


def test_new_weights_are_one_changed_artifact(tmp_path: Path) -> None:
    old = Bundle.open(make_bundle(tmp_path / "a", formats=("onnx", "tflite")))
    new = Bundle.open(make_bundle(tmp_path / "b", version="2", shift=1.0))
    found = diff(old, new)
    assert found.compatible
    assert not found.same
    assert [change.name for change in found.artifacts] == ["onnx-fp32", "tflite-fp32"]
    assert found.artifacts[1].after is None
    assert found.shared_bytes == len(b"<p>report</p>")
    assert 0 < found.new_bytes < sum(blob.size for blob in new.descriptors())


def test_another_signature_is_told(tmp_path: Path) -> None:
    old = Bundle.open(make_bundle(tmp_path / "a"))
    new = Bundle.open(make_bundle(tmp_path / "a"))
    inputs = (TensorSpec("x", "uint8", (-1, 4)), TensorSpec("z", "float32", (-1, 1)))
    new.card = msgspec.structs.replace(new.card, inputs=inputs, labels=())
    found = diff(old, new)
    assert not found.compatible
    assert found.signature == (
        "input x: float32 [-1, 4] → uint8 [-1, 4]",
        "input z is new",
        "labels differ",
    )


def test_the_command_says_it_in_words(tmp_path: Path) -> None:
    from argparse import Namespace
    from io import StringIO

    out = StringIO()
    words = Namespace(
        old=make_bundle(tmp_path / "a"), new=make_bundle(tmp_path / "b", version="2", shift=1.0)
    )
    assert command.run(words, Output(out=out)) == 0
    assert "linear 1 → linear 2" in out.getvalue()
    assert "callers need not change" in out.getvalue()
