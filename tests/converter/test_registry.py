"""A bundle is an OCI artifact: other people's tools carry it without changing it."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from skerry.cli.main import main
from skerry.devices.errors import ExitCode
from skerry.runtime.bundle.reader import Bundle


@pytest.mark.service("skopeo")
def test_skopeo_copies_a_bundle_and_keeps_its_digest(project: Path) -> None:
    out = project / "out"
    assert main(["convert", str(project / "recipe.toml"), "--out", str(out)]) == ExitCode.OK
    digest = json.loads((out / "result.json").read_text())["manifest"]
    skopeo = shutil.which("skopeo") or "skopeo"
    source, copy = f"oci:{out / 'bundle'}", project / "copy"
    command = [skopeo, "--insecure-policy", "copy", "--preserve-digests", source, f"oci:{copy}:1"]
    subprocess.run(command, check=True, capture_output=True)
    index = json.loads((copy / "index.json").read_text())
    assert index["manifests"][0]["digest"] == digest
    bundle = Bundle.open(copy)
    bundle.verify()
    assert str(bundle.manifest.digest) == digest
