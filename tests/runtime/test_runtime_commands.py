import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fakes.bundles import linear, make_bundle
from skerry.cli.main import main


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(make_bundle(tmp_path / "b", formats=("onnx", "tflite")))
    assert main(["inspect", path]) == 0
    text = capsys.readouterr().out
    assert "linear 1" in text
    assert "tflite-fp32" in text
    assert "x float32 [n, 4]" in text
    assert main(["inspect", path, "--json"]) == 0
    assert _json(capsys)["card"]["model"] == "linear"  # type: ignore[index]
    assert main(["inspect", path, "--document", "nope"]) == 2
    assert main(["inspect", str(tmp_path)]) == 2


def test_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = make_bundle(tmp_path / "b", formats=("onnx", "tflite"))
    assert main(["verify", str(good), "--json"]) == 0
    document = _json(capsys)
    assert [item["golden"] for item in document["artifacts"]] == ["passed", "passed"]  # type: ignore[attr-defined]
    assert main(["verify", str(make_bundle(tmp_path / "bad", golden_error=1.0))]) == 3
    blob = next(p for p in (good / "blobs" / "sha256").iterdir() if p.read_bytes()[:3] == b"<p>")
    blob.write_bytes(b"<p>REPORT</p>")
    assert main(["verify", str(good), "--digests-only"]) == 4


def test_predict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(make_bundle(tmp_path / "b", formats=("onnx", "tflite")))
    x = np.random.default_rng(0).normal(size=(150, 4)).astype(np.float32)
    np.savez(tmp_path / "in.npz", x=x, label=np.arange(150))
    for artifact in ("onnx-fp32", "tflite-fp32"):
        out = tmp_path / f"{artifact}.npz"
        words = ["predict", path, str(tmp_path / "in.npz"), "--out", str(out)]
        assert main([*words, "--artifact", artifact, "--json"]) == 0
        assert _json(capsys)["artifact"] == artifact
        with np.load(out) as found:
            np.testing.assert_allclose(found["y"], linear(x), atol=1e-5)


@pytest.mark.parametrize("content", ["other", "pickle", "noise", "gone", "empty", "wrong"])
def test_predict_refuses_a_bad_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "in.npz"
    if content == "other":
        np.savez(path, z=np.zeros((1, 4), np.float32))
    elif content == "pickle":
        np.savez(path, x=np.array([{}], dtype=object))
    elif content == "noise":
        path.write_bytes(b"noise")
    elif content == "empty":
        np.savez(path, x=np.zeros((0, 4), np.float32))
    elif content == "wrong":
        np.savez(path, x=np.zeros((2, 5), np.float32))
    out = tmp_path / "out.npz"
    words = ["predict", str(make_bundle(tmp_path / "b")), str(path), "--out", str(out)]
    assert main(words) == 2
    assert "in.npz" in (message := capsys.readouterr().err) or "input x" in message
    assert not out.exists()


@pytest.mark.parametrize("command", ["inspect", "verify", "run"])
def test_what_the_disk_does_not_give_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([command, str(tmp_path / ("long" * 1000))]) == 5
    assert "cannot read: File name too long" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["--http", "--uds"])
def test_run_serves_on_a_unix_socket(tmp_path: Path, way: str) -> None:
    bundle, path = str(make_bundle(tmp_path / "b")), tmp_path / "s"
    at = str(path) if way == "--uds" else f"unix:{path}"
    command = [sys.executable, "-m", "skerry.cli.main", "run", bundle, way, at]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f"answers at unix:{path}" in process.stdout.readline()
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
        finally:
            process.terminate()
    assert process.returncode == 0
    assert not path.exists()


def test_run_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    bundle = str(make_bundle(tmp_path / "b"))
    command = [sys.executable, "-m", "skerry.cli.main", "run", bundle, "--http", "127.0.0.1:0"]
    process = subprocess.Popen(
        [*command, "--json"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    try:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line.decode()
            if line.rstrip() == b"}":
                break
        document = json.loads(text)
        assert document["artifact"] == "onnx-fp32"
        host = document["address"].removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=20)
        connection.request("GET", "/v2/health/ready")
        assert connection.getresponse().status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_run_of_a_folder_that_holds_no_bundle_is_refused(tmp_path: Path) -> None:
    assert main(["run", str(tmp_path)]) == 2
    assert main(["run", str(tmp_path / "gone")]) == 2
    make_bundle(tmp_path / "b")
    assert main(["run", str(tmp_path), "--memory", "1"]) == 2


@pytest.mark.parametrize("http", ["8080x", "127.0.0.1:99999", "0.0.0.0:0"])
def test_run_refuses_a_bad_address(tmp_path: Path, http: str) -> None:
    assert main(["run", str(make_bundle(tmp_path / "b")), "--http", http]) == 2
