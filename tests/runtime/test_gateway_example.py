import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np

from fakes.bundles import BIAS, linear, make_bundle


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
