"""A few kills of the real process; `make soak` does 200."""

import importlib.util
import sys
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("sigkill", Path(__file__).with_name("sigkill.py"))
assert _spec and _spec.loader
sigkill = sys.modules["sigkill"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(sigkill)


@pytest.mark.slow
def test_five_kills(tmp_path: Path) -> None:
    result = sigkill.torture(tmp_path, kills=5, seed=3, say=lambda text: None)
    assert (result.kills, result.survived, result.failed) == (5, 5, 0)
    assert result.updates >= 3
