"""A bundle is an OCI artifact: other people's tools carry it without changing it."""

import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from skerry.cli.main import main
from skerry.devices.errors import ExitCode
from skerry.runtime.bundle.reader import Bundle


@pytest.fixture
def bundle(project: Path) -> Bundle:
    out = project / "out"
    assert main(["convert", str(project / "recipe.toml"), "--out", str(out)]) == ExitCode.OK
    return Bundle.open(out / "bundle")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of a registry that keeps what it is given in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    config = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    path = tmp_path / "registry.yml"
    path.write_text(json.dumps(config))  # JSON is YAML
    program = shutil.which("docker-registry") or "docker-registry"
    child = subprocess.Popen([program, "serve", str(path)], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        for line in child.stderr:
            if "listening on" in line:
                break
        else:
            pytest.fail("the registry did not start")
        yield address
    finally:
        child.terminate()
        child.wait(10)
        child.stderr.close()


def skopeo(*words: str) -> str:
    program = shutil.which("skopeo") or "skopeo"
    done = subprocess.run(
        [program, "--insecure-policy", *words], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def same(copy: Path, bundle: Bundle) -> None:
    index = json.loads((copy / "index.json").read_text())
    assert index["manifests"][0]["digest"] == str(bundle.manifest.digest)
    found = Bundle.open(copy)
    found.verify()
    assert found.card == bundle.card


@pytest.mark.service("skopeo")
def test_skopeo_copies_a_bundle_and_keeps_its_digest(bundle: Bundle, project: Path) -> None:
    copy = project / "copy"
    source = f"oci:{project / 'out' / 'bundle'}"
    skopeo("copy", "--preserve-digests", source, f"oci:{copy}:1")
    same(copy, bundle)


@pytest.mark.service("skopeo", "docker-registry")
def test_a_registry_carries_a_bundle_there_and_back(
    bundle: Bundle, project: Path, registry: str
) -> None:
    copy, name = project / "copy", f"docker://{registry}/models/quadrants:1"
    source = f"oci:{project / 'out' / 'bundle'}"
    skopeo("copy", "--preserve-digests", "--dest-tls-verify=false", source, name)
    raw = skopeo("inspect", "--raw", "--tls-verify=false", name)
    assert raw.encode() == bundle.manifest_bytes
    skopeo("copy", "--preserve-digests", "--src-tls-verify=false", name, f"oci:{copy}:1")
    same(copy, bundle)
