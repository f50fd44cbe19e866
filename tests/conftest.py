"""What every test may ask for, and the rule for tests that need a program from outside Python."""

import os
import shutil
import signal
from pathlib import Path

import pytest

# Debian keeps PostgreSQL's programs off PATH.
_PLACES = ["/usr/lib/postgresql/15/bin", "/usr/sbin", "/sbin"]
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", ""), *_PLACES])

# A shell that runs tests in the background has them ignore SIGINT, and so would their children.
signal.signal(signal.SIGINT, signal.default_int_handler)

_REQUIRED = os.environ.get("SKERRY_REQUIRE_SERVICES") == "1"


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("service"):
        for program in mark.args:
            if shutil.which(program):
                continue
            if _REQUIRED:
                pytest.fail(f"{program} is required here and is not installed", pytrace=False)
            pytest.skip(f"{program} is not installed")


@pytest.fixture
def root() -> Path:
    """The folder of the repository."""
    return Path(__file__).parent.parent
