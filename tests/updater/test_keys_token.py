"""Keys on a PKCS#11 token, in a process of their own: a token's library brings its own OpenSSL,
which does not live together with what the converter's tests have loaded by then."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CASES = Path(__file__).with_name("token_cases.py")


@pytest.mark.service("softhsm2-util")
def test_keys_on_a_token() -> None:
    words = [sys.executable, "-m", "pytest", "-q", str(_CASES)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    if os.environ.get("SKERRY_REQUIRE_SERVICES") == "1":
        assert "skipped" not in done.stdout, done.stdout
