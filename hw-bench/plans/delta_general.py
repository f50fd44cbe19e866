"""Deltas of files that hold no tensors, against the peers of delta_sizes.

    python hw-bench/plans/delta_general.py

A tar of Python's own library before and after an edit, the same as a wheel (a zip whose members
are compressed), two states of an SQLite database, identical, empty and unrelated files.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sqlite3
import sysconfig
import tarfile
import tempfile
import zipfile
from pathlib import Path

from delta_pairs import Pair
from delta_sizes import peer_sizes

from skerry.bench.machine import read_machine, read_now
from skerry.updater.delta import apply, create

_RESULT = Path(__file__).parent.parent / "results" / "delta_general.json"
_MODULES = 60
_CEILING = 1.02
_DATE = (2026, 1, 1, 0, 0, 0)


def _library() -> dict[str, bytes]:
    folder = Path(sysconfig.get_path("stdlib"))
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))[:_MODULES]}


def _edited(files: dict[str, bytes]) -> dict[str, bytes]:
    """A few modules changed, one gone, one new."""
    draw, new = random.Random(0), dict(files)
    names = sorted(files)
    for name in draw.sample(names, 12):
        lines = new[name].splitlines(keepends=True)
        at = draw.randrange(len(lines))
        lines[at : at + 3] = [b"# changed\n", *lines[at : at + 1]]
        new[name] = b"".join(lines)
    del new[names[5]]
    new["zz_new.py"] = b"".join(files[name][:400] for name in draw.sample(names, 8))
    return new


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def _wheel(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            wheel.writestr(zipfile.ZipInfo(name, _DATE), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _database(folder: Path, *, later: bool) -> bytes:
    draw, path = random.Random(0), folder / f"later-{later}.db"
    with sqlite3.connect(path) as database:
        database.execute("create table reading (id integer primary key, device text, value real)")
        rows = [(i, f"gate-{draw.randrange(40)}", draw.gauss(20, 3)) for i in range(12_000)]
        database.executemany("insert into reading values (?, ?, ?)", rows)
        if later:
            for i in draw.sample(range(12_000), 150):
                database.execute("update reading set value = ? where id = ?", (draw.random(), i))
            database.execute("delete from reading where id between 500 and 560")
            more = [(20_000 + i, "gate-new", draw.gauss(21, 3)) for i in range(400)]
            database.executemany("insert into reading values (?, ?, ?)", more)
    return path.read_bytes()


def pairs(folder: Path) -> list[tuple[str, bytes, bytes]]:
    """Name, old and new of each pair."""
    files, draw = _library(), random.Random(1)
    new, noise = _edited(files), draw.randbytes(300_000)
    return [
        ("tar", _tar(files), _tar(new)),
        ("wheel", _wheel(files), _wheel(new)),
        ("sqlite", _database(folder, later=False), _database(folder, later=True)),
        ("identical", _tar(files), _tar(files)),
        ("to empty", noise, b""),
        ("from empty", b"", _tar(files)),
        ("both empty", b"", b""),
        ("unrelated text", noise, _tar(files)),
        ("unrelated noise", noise, draw.randbytes(200_000)),
    ]


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=_RESULT)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, before, after in pairs(folder):
            old, new, patch, made = (folder / n for n in ("old", "new", "patch", "made"))
            old.write_bytes(before)
            new.write_bytes(after)
            size = create(old, new, patch).patch_size
            apply(old, patch, made)
            assert made.read_bytes() == after
            peers = peer_sizes(Pair(title, old, new), folder)
            best = min(peers, key=lambda peer: peers[peer])
            rows.append(
                {
                    "pair": title,
                    "old_bytes": len(before),
                    "new_bytes": len(after),
                    "delta_bytes": size,
                    "peers": peers,
                    "best_peer": best,
                    "within_ceiling": size <= _CEILING * peers[best],
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    document = {"ceiling": _CEILING, "rows": rows} | {
        title: {field: getattr(record, field) for field in record.__struct_fields__}
        for title, record in (("machine", read_machine()), ("after", read_now()))
    }
    args.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
