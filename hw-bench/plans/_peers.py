"""Environments of their own for the servers that plans compare with, made once and kept.

They lie under `$XDG_CACHE_HOME/skerry-bench` (or `~/.cache`), never in the project's environment:
each peer pins a world of its own.
"""

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime

_ENGINE = f"onnxruntime=={onnxruntime.__version__}"
PACKAGES = {
    "mlserver": ["mlserver==1.7.1", _ENGINE],
    "litserve": ["litserve==0.2.19", _ENGINE],
    "bentoml": ["bentoml==1.4.40", _ENGINE],
}


def cache_folder() -> Path:
    """Where plans keep what is dear to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skerry-bench"


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment, which is made where it is missing."""
    words = PACKAGES[peer]
    folder = cache_folder() / "-".join(words).replace("=", "")
    python = folder / "bin" / "python"
    done = folder / ".installed"
    if not done.exists():
        print(f"installing {', '.join(words)} into {folder}", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", *words],
            check=True,
        )
        done.touch()
    return python
