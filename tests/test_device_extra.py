"""The device extra alone, in a fresh environment: what it holds, what it weighs, that it runs."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from fakes.bundles import make_bundle

_FORBIDDEN = {"torch", "tensorflow", "tensorflow-cpu", "jax", "jaxlib", "coremltools", "onnx"}
_FORBIDDEN |= {"fastapi", "sqlalchemy", "pydantic"}
_ENGINES = {"onnxruntime", "ai-edge-litert"}
_LIMIT_BYTES = 25 * 2**20

# A file of test data that securesystemslib ships by mistake: a device image can leave it out.
_NOT_NEEDED = "securesystemslib/_vendor/ed25519/test_data/"

_CLOSURE = """
import importlib.metadata as m, json, os, sys
out = {}
for d in m.distributions():
    paths = [d.locate_file(f) for f in d.files or [] if f.suffix != ".pyc"]
    sizes = [os.path.getsize(p) for p in paths if os.path.isfile(p) and sys.argv[1] not in str(p)]
    out[d.metadata["Name"].lower().replace("_", "-")] = sum(sizes)
print(json.dumps(out))
"""
_REQUIRES = """
import importlib.metadata as m, json, re, sys
def needs(name, seen):
    if name in seen: return seen
    try: d = m.distribution(name)
    except m.PackageNotFoundError: return seen
    seen.add(name)
    for r in d.requires or []:
        if "extra ==" not in r:
            needs(re.match(r"[A-Za-z0-9._-]+", r).group().lower().replace("_", "-"), seen)
    return seen
print(json.dumps(sorted(set().union(*(needs(n, set()) for n in sys.argv[1:])))))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("device-only")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    root = Path(__file__).parent.parent
    words = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "--no-compile"]
    words += ["-c", root / "requirements.lock", f"{root}[device]"]
    subprocess.run(words, check=True)
    return python


def _run(python: Path, *words: object) -> str:
    done = subprocess.run(
        [str(python), *map(str, words)], capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_closure_holds_no_framework_and_stays_light(python: Path) -> None:
    sizes = json.loads(_run(python, "-c", _CLOSURE, _NOT_NEEDED))
    for tool in ("pip", "setuptools"):
        sizes.pop(tool, None)
    engines = set(json.loads(_run(python, "-c", _REQUIRES, *_ENGINES, "numpy")))
    rest = {name: size for name, size in sizes.items() if name not in engines}
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        print(f"{size / 2**20:8.2f} MiB  {name}{'  (engines)' if name in engines else ''}")
    print(f"{sum(rest.values()) / 2**20:8.2f} MiB beyond the engines")
    assert not set(sizes) & _FORBIDDEN
    assert sum(rest.values()) <= _LIMIT_BYTES


@pytest.mark.slow
def test_runtime_and_agent_run_there(python: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", formats=("onnx", "tflite"))
    verified = json.loads(_run(python, "-m", "skerry.cli.main", "verify", bundle, "--json"))
    assert verified
    status = subprocess.run(
        [python, "-m", "skerry.cli.main", "agent", "status", "--home", tmp_path / "none"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert status.returncode == 2
    assert "enrol" in status.stderr
    refused = subprocess.run(
        [python, "-m", "skerry.cli.main", "fleet", "serve", "--home", tmp_path / "server"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 5
    assert "skerry[server]" in refused.stderr


@pytest.mark.slow
def test_device_modules_load_nothing_heavy() -> None:
    modules = [
        "skerry.devices.identity",
        "skerry.runtime.runtime",
        "skerry.telemetry.recorder",
        "skerry.updater.trust",
        "skerry.updater.delta",
        "skerry.updater.agent.command",
    ]
    code = f"import sys\nfor m in {modules!r}: __import__(m)\nprint(*sorted(sys.modules))"
    loaded = {name.partition(".")[0] for name in _run(Path(sys.executable), "-c", code).split()}
    assert not loaded & {"torch", "tensorflow", "jax", "coremltools", "fastapi", "sqlalchemy"}
