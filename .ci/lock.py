"""Write the versions that go together for every extra, from one dry resolution."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HEADER = """\
# One set of versions for every extra. Regenerate with `make lock`. Used as constraints, so an
# extra installs only what it needs, at the versions written here.
"""


def main(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "-qq", "--dry-run"]
        command += ["--ignore-installed", "--report", str(report), "-e", ".[dev]"]
        subprocess.run(command, check=True)
        chosen = json.loads(report.read_text())["install"]
    pins = sorted(
        # A local label such as +cpu names a build, not a version: any build of the version will do.
        f"{package['metadata']['name'].lower()}=={package['metadata']['version'].partition('+')[0]}"
        for package in chosen
        if package["metadata"]["name"] != "skerry"
    )
    target.write_text(HEADER + "\n".join(pins) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
