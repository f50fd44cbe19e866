import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fakes.bundles import BIAS, linear, make_bundle
from skerry.runtime.bundle.card import TensorSpec, Tolerance
from skerry.runtime.bundle.writer import ArtifactFile, write_bundle
from skerry.runtime.runtime import Runtime


def test_the_loop_answers_reloads_and_turns_a_bad_bundle_down(root: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    command = [sys.executable, str(root / "examples/gateway/loop.py"), str(bundle)]
    process = subprocess.Popen(
        command,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None

    def ask(line: str) -> dict[str, object]:
        process.stdin.write(line + "\n")  # type: ignore[union-attr]
        process.stdin.flush()  # type: ignore[union-attr]
        return json.loads(process.stdout.readline())  # type: ignore[no-any-return,union-attr]

    row = np.array([[1, 2, 3, 4]], np.float32)
    best = int(linear(row).argmax())
    try:
        assert ask("1,2,3,4")["label"] == "abc"[best]
        assert "error" in ask("1,2,x")
        assert "error" in ask("1,2,nan,4")
        process.stdin.buffer.write(b"1,\xff,3,4\n")
        assert "error" in ask("")
        assert "error" in json.loads(process.stdout.readline())
        make_bundle(bundle, version="2", golden_error=1.0)
        process.send_signal(signal.SIGHUP)
        assert "kept the old release" in process.stderr.readline()
        assert ask("1,2,3,4")["version"] == "1"
        make_bundle(bundle, version="3", shift=1.0)
        process.send_signal(signal.SIGHUP)
        assert "serving 3" in process.stderr.readline()
        answer = ask("1,2,3,4")
        assert answer["version"] == "3"
        assert np.isclose(answer["score"], linear(row, BIAS + 1).max(), atol=1e-5)  # type: ignore[arg-type]
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def _runtime(tmp_path: Path, operator: str, dtype: str, shape: tuple[int, ...]) -> Runtime:
    """A runtime of `operator` over rows of four, as float32 of `shape`."""
    more = {"Cast": {"to": TensorProto.FLOAT}, "ReduceSum": {"keepdims": 0}}
    axes = ["axes"] if operator == "ReduceSum" else []
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node(operator, ["in", *axes], ["out"], **more.get(operator, {}))],
        "one",
        [helper.make_tensor_value_info("in", kind, ["n", 4])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", *shape[1:]])],
        [numpy_helper.from_array(np.array([1]), name) for name in axes],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    x = np.ones((4, 4), dtype)
    y = np.full((4, *shape[1:]), 4 if axes else 1, np.float32)
    artifact = ArtifactFile(
        path=tmp_path / "m.onnx",
        format="onnx",
        precision="fp32",
        inputs=("in",),
        outputs=("out",),
        tolerance=Tolerance(atol=1e-3),
        golden={"y": y},
    )
    write_bundle(
        tmp_path / "m",
        model="one",
        version="1",
        inputs=[TensorSpec("x", dtype, (-1, 4))],
        outputs=[TensorSpec("y", "float32", shape)],
        artifacts=[artifact],
        golden_inputs={"x": x},
    )
    return Runtime.open(tmp_path / "m")


@pytest.mark.parametrize(
    ("operator", "dtype", "shape", "answers"),
    [
        (
            "ReduceSum",
            "float32",
            (-1,),
            {"1,2,3,4": 10.0, "1,1,1,inf": "inf", "1,1e300,1,1": "fit"},
        ),
        (
            "Cast",
            "uint8",
            (-1, 4),
            {
                "1,2.0,255,0": 255.0,
                "1,2,300,4": "300",
                "1,-1,3,4": "-1",
                "1,nan,3,4": "nan",
                "1,inf,3,4": "inf",
                "1,2.5,3,4": "2.5",
                "1,2,3": "reshape",
                "": "convert",
            },
        ),
        ("Cast", "int64", (-1, 4), {"-5,1,1,3": 3.0, "9007199254740993,1,1,1": "fit"}),
        ("Reciprocal", "float32", (-1, 4), {"1,2,4,8": 1.0, "1,0,1,1": "inf", "1,nan,1,1": "NaN"}),
    ],
)
def test_a_line_gets_an_answer_in_json_or_is_refused(
    root: Path,
    tmp_path: Path,
    operator: str,
    dtype: str,
    shape: tuple[int, ...],
    answers: dict[str, float | str],
) -> None:
    loop = runpy.run_path(str(root / "examples/gateway/loop.py"))
    runtime = _runtime(tmp_path, operator, dtype, shape)
    try:
        for line, wanted in answers.items():
            told = json.loads(json.dumps(loop["answer"](runtime, line), allow_nan=False))
            if isinstance(wanted, str):
                assert wanted in told["error"], line
            else:
                assert told["score"] == wanted, line
                assert ("label" in told) == (shape != (-1,))
    finally:
        runtime.close()


def _unit(root: Path, name: str, tmp_path: Path) -> str:
    """A unit with its paths below `tmp_path`, and this environment's programs."""
    text = (root / "examples/gateway" / name).read_text()
    cli = tmp_path / "skerry"
    cli.write_text(f'#!/bin/sh\nexec {sys.executable} -m skerry.cli.main "$@"\n')
    cli.chmod(0o755)
    for own, here in (
        ("/opt/skerry/bin/skerry", str(cli)),
        ("/opt/skerry/bin/python", sys.executable),
        ("/opt/skerry/gateway", str(root / "examples/gateway")),
        ("/var/lib/skerry", str(tmp_path)),
        ("/run/skerry-gateway", str(tmp_path)),
        ("/run/skerry", str(tmp_path)),
    ):
        text = text.replace(own, here)
    return text


def _command(unit: str) -> tuple[list[str], dict[str, str]]:
    lines = [line.partition("=") for line in unit.splitlines() if "=" in line]
    (command,) = [value.split() for key, _, value in lines if key == "ExecStart"]
    own = [value.partition("=") for key, _, value in lines if key == "Environment"]
    return command, {**os.environ, **{key: value for key, _, value in own}}


@pytest.mark.parametrize("name", ["skerry-gateway.service", "skerry-server.service"])
def test_systemd_has_nothing_to_say_against_a_unit(root: Path, tmp_path: Path, name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    path = tmp_path / name
    path.write_text(_unit(root, name, tmp_path))
    found = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)],
        capture_output=True,
        text=True,
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_the_loops_unit_runs_says_when_it_is_ready_and_reads_its_fifo(
    root: Path, tmp_path: Path
) -> None:
    make_bundle(tmp_path / "bundle")
    command, environment = _command(_unit(root, "skerry-gateway.service", tmp_path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        environment["NOTIFY_SOCKET"] = str(tmp_path / "notify")
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout is not None
            assert manager.recv(100) == b"READY=1"
            for _ in range(2):  # a writer comes and goes
                (tmp_path / "readings").write_text("1,2,3,4\n")
                assert json.loads(process.stdout.readline())["version"] == "1"
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
            process.communicate()


def test_the_servers_unit_runs_and_answers_on_its_socket(root: Path, tmp_path: Path) -> None:
    make_bundle(tmp_path / "bundle")
    command, environment = _command(_unit(root, "skerry-server.service", tmp_path))
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert "answers at unix:" in process.stdout.readline()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "http.sock"))
            client.sendall(b"GET /v2/health/ready HTTP/1.1\r\nhost: x\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 200")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
