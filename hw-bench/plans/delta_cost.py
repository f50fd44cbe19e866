"""What a delta costs: seconds and memory, on models of 20 MB and more and on one of 1 GB.

    python hw-bench/plans/delta_cost.py --without-large | --only-large --out FILE

Synthetic weights, seeded: normally distributed, moved by a tenth of their spread, half of it alike
for the nine places of a kernel, as training moves them; the cost does not depend on what they mean.
Each step runs in a process of its own, whose peak memory is read at its end (VmHWM, which begins
anew with the program; ru_maxrss keeps that of the process that started it). bsdiff4 makes its patch
of the first model in a process of its own as well. One thread computes while another hashes and
writes, so that `mb_per_s` is with two cores and `mb_per_cpu_s` with one.
"""

from __future__ import annotations

import argparse
import json
import statistics
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from skerry.bench.machine import read_machine, read_now

_RESULT = Path(__file__).parent.parent / "results" / "delta_cost.json"
_SHAPE = (512, 512, 3, 3)
_ELEMENTS = 512 * 512 * 9
_SMALL = (("int8", 10), ("float16", 5), ("float32", 3))
_MOVED = 0.1 * 0.5**0.5
_REPEATS = 3
_STEPS = {
    "create": ("from skerry.updater.delta import create", "create(old, new, patch)"),
    "apply": ("from skerry.updater.delta import apply", "apply(old, patch, made)"),
    "bsdiff4": ("import bsdiff4", "bsdiff4.file_diff(old, new, patch)"),
    "nothing": ("import skerry.updater.delta", "pass"),
}
_CODE = """
import sys, time
from pathlib import Path
{imports}
old, new, patch, made = map(Path, sys.argv[1:])
cpu, start = time.process_time(), time.perf_counter()
{work}
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
lines = dict(line.split(":") for line in open("/proc/self/status"))
print(cpu, int(lines["VmHWM"].split()[0]) * 1024, seconds)
"""


def write_pair(folder: Path, kind: str, tensors: int) -> tuple[Path, Path]:
    """Two safetensors files of `tensors` kernels of the shape above."""
    paths = folder / f"{kind}-{tensors}.old", folder / f"{kind}-{tensors}.new"
    size = np.dtype(kind).itemsize * _ELEMENTS
    name = {"int8": "I8", "float16": "F16", "float32": "F32"}[kind]
    header = {
        f"layer{i}.weight": {
            "dtype": name,
            "shape": _SHAPE,
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(tensors)
    }
    encoded = json.dumps(header).encode()
    draw = np.random.default_rng(0)
    with paths[0].open("wb") as old, paths[1].open("wb") as new:
        for file in (old, new):
            file.write(struct.pack("<Q", len(encoded)) + encoded)
        for _ in range(tensors):
            weights = draw.standard_normal(_ELEMENTS, np.float32)
            moved = weights + _MOVED * (
                np.repeat(draw.standard_normal(_ELEMENTS // 9, np.float32), 9)
                + draw.standard_normal(_ELEMENTS, np.float32)
            )
            for file, values in ((old, weights), (new, moved)):
                if kind == "int8":
                    values = np.clip(np.rint(values * 32), -127, 127)
                file.write(values.astype(kind).tobytes())
    return paths


def step(name: str, paths: list[Path]) -> dict[str, float]:
    """Run one step in a process of its own."""
    imports, work = _STEPS[name]
    code = _CODE.format(imports=imports, work=work)
    command = [sys.executable, "-c", code, *map(str, paths)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    cpu, peak, seconds = map(float, done.stdout.split())
    return {"seconds": round(seconds, 3), "cpu_s": round(cpu, 3), "peak_bytes": int(peak)}


def measured(folder: Path, kind: str, tensors: int, repeats: int) -> dict[str, object]:
    """Create and apply one pair, `repeats` times each; the medians."""
    old, new = write_pair(folder, kind, tensors)
    paths = [old, new, folder / "patch", folder / "made"]
    row: dict[str, object] = {"kind": kind, "bytes": new.stat().st_size}
    for name in ("create", "apply"):
        runs = [step(name, paths) for _ in range(repeats)]
        seconds = statistics.median(run["seconds"] for run in runs)
        cpu = statistics.median(run["cpu_s"] for run in runs)
        row[name] = {
            "seconds": seconds,
            "cpu_s": cpu,
            "mb_per_s": round(new.stat().st_size / 1e6 / seconds, 1),
            "mb_per_cpu_s": round(new.stat().st_size / 1e6 / cpu, 1),
            "peak_mib": round(max(run["peak_bytes"] for run in runs) / 2**20, 1),
        }
    row["delta_bytes"] = paths[2].stat().st_size
    assert paths[3].read_bytes() == new.read_bytes() if tensors < 50 else True
    return row


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--without-large", action="store_true")
    parser.add_argument("--only-large", action="store_true")
    parser.add_argument("--without-bsdiff4", action="store_true")
    parser.add_argument("--out", type=Path, default=_RESULT)
    args = parser.parse_args()
    before = read_now()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for kind, tensors in () if args.only_large else _SMALL:
            rows.append(measured(Path(folder), kind, tensors, _REPEATS))
            print(json.dumps(rows[-1]), flush=True)
        document: dict[str, object] = {"rows": rows}
        if not args.without_bsdiff4 and not args.only_large:
            old, new = Path(folder) / "int8-10.old", Path(folder) / "int8-10.new"
            paths = [old, new, Path(folder) / "patch", Path(folder) / "made"]
            document["bsdiff4"] = step("bsdiff4", paths)
            print(json.dumps(document["bsdiff4"]), flush=True)
        for path in Path(folder).iterdir():
            path.unlink()
        if not args.without_large:
            rows.append(measured(Path(folder), "int8", 425, 1))
            print(json.dumps(rows[-1]), flush=True)
        document["imports_peak_mib"] = round(
            step("nothing", [Path("x")] * 4)["peak_bytes"] / 2**20, 1
        )
    document |= {
        name: {field: getattr(record, field) for field in record.__struct_fields__}
        for name, record in (
            ("machine", read_machine()),
            ("before", before),
            ("after", read_now()),
        )
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
