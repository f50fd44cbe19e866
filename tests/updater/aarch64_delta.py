"""Apply the golden patches, and some of real models, on aarch64 under qemu: the same bytes.

    python tests/updater/aarch64_delta.py --root ARM64_ROOT --site ARM64_PACKAGES
        [--model OLD PATCH NEW_SHA256]… [--out FILE]

ROOT is a Debian arm64 tree with python3.11 (packages unpacked by `dpkg -x`), SITE a folder with the
aarch64 wheels of numpy, msgspec, bsdiff4 and backports.zstd unpacked.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent.parent
_GOLDEN = _HERE.parent / "golden"
_VERSIONS = ("v1", "v2")
_CODE = """
import hashlib, json, platform, sys, tempfile, time
from pathlib import Path
from skerry.updater.delta import apply
rows = []
for name, old, patch, digest in json.load(sys.stdin):
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        start = time.perf_counter()
        apply(Path(old), Path(patch), made)
        seconds = round(time.perf_counter() - start, 2)
        same = hashlib.sha256(made.read_bytes()).hexdigest() == digest
        rows.append({"name": name, "same": same, "seconds": seconds})
import numpy
print(json.dumps({"machine": platform.machine(), "numpy": numpy.__version__, "rows": rows}))
"""


def main() -> None:
    """Run the decoder under qemu, and say whether every result was right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--site", type=Path, required=True)
    parser.add_argument("--model", nargs=3, action="append", default=[])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    work = [
        (f"{version}/{name}", f"{folder / name}.old", f"{folder / name}.patch", digest)
        for version in _VERSIONS
        for folder in [_GOLDEN / version / "delta"]
        for name, digest in json.loads((folder / "digests.json").read_text()).items()
    ]
    work += [(f"model {Path(patch).stem}", old, patch, digest) for old, patch, digest in args.model]
    paths = [str(args.site), *(str(_ROOT / part) for part in ("devices", "runtime", "updater"))]
    command = ["qemu-aarch64-static", "-cpu", "neoverse-n1", "-L", str(args.root)]
    command += [str(args.root / "usr/bin/python3.11"), "-c", _CODE]
    environment = {
        **{name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        "PYTHONHOME": str(args.root / "usr"),
        "PYTHONPATH": os.pathsep.join(paths),
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run(
        command, input=json.dumps(work), capture_output=True, text=True, env=environment
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    document = json.loads(done.stdout)
    text = json.dumps(document, indent=1) + "\n"
    if args.out:
        args.out.write_text(text)
    print(text, end="")
    assert document["machine"] == "aarch64"
    assert all(row["same"] for row in document["rows"])


if __name__ == "__main__":
    main()
