"""Apply damaged patches by the million: each is refused by a typed error.

    python tests/updater/fuzz_delta.py [--runs 1000000] [--seed 0] [--corpus DIR]
        [--out FILE [--resume]]

The corpus is pairs of `NAME.old` and `NAME.patch`. Each run damages one patch (bits, bytes, cuts,
repeats, another patch's middle, large integers) and decodes it in memory that is limited, so that
a claim of absurd sizes that is believed ends in MemoryError.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import skerry.updater.delta as delta
from skerry.devices.errors import SkerryError
from skerry.updater.delta import Limits
from skerry.updater.delta.patching import decode
from skerry.updater.delta.wire import VERSION

CORPUS = Path(__file__).parent / "delta_corpus"
_MEMORY_BYTES = 2 << 30
_ROUND = 25_000
# Version 1's empty patch, a whole one by docs/delta-format.md: enough damage makes it of any other.
_EMPTY_1 = b"\xe4\x11"
_LARGE = [b"\xff" * n + b"\x7f" for n in range(1, 10)]


def load(folder: Path) -> list[tuple[bytes, bytes, bytes]]:
    """Base, patch and result of each pair of the corpus."""
    found = []
    for patch in sorted(folder.glob("*.patch")):
        base, packed = patch.with_suffix(".old").read_bytes(), patch.read_bytes()
        found.append((base, packed, applied(base, packed)))
    return found


def applied(base: bytes, patch: bytes) -> bytes:
    """The result of a patch."""
    return b"".join(c for c, _ in decode(io.BytesIO(base), io.BytesIO(patch), Limits()))


def damaged(draw: random.Random, patch: bytes, other: bytes) -> bytes:
    """`patch` with one to four kinds of damage."""
    data = bytearray(patch)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
        at = draw.randrange(len(data)) if data else 0
        match draw.randrange(7):
            case 0 if data:
                data[at] ^= 1 << draw.randrange(8)
            case 1 if data:
                data[at] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))
            case 2:
                del data[at:]
            case 3:
                del data[at : at + draw.randrange(1, 9)]
            case 4:
                data[at:at] = draw.choice(_LARGE)
            case 5:
                begin = draw.randrange(len(other))
                data[at : at + draw.randrange(64)] = other[begin : begin + draw.randrange(64)]
            case _:
                data[at:at] = data[at : at + draw.randrange(1, 64)]
    return bytes(data)


def fuzz(
    runs: int, seed: int, folder: Path = CORPUS, seconds: float = float("inf")
) -> Counter[str]:
    """How each run ended, by the name of its error; fewer runs where `seconds` are over.

    Raises:
        AssertionError: a damaged patch was not refused.
        Exception: whatever is not a `SkerryError`, with the patch that caused it.
    """
    draw, corpus, ends = random.Random(seed), load(folder), Counter[str]()
    patches = {_EMPTY_1, *(patch for _, patch, _ in corpus)}
    until = time.monotonic() + seconds
    for number in range(runs):
        if time.monotonic() > until:
            break
        base, patch, _ = draw.choice(corpus)
        bad = damaged(draw, patch, draw.choice(corpus)[1])
        try:
            applied(base, bad)
        except SkerryError as error:
            ends[type(error).__name__] += 1
        except BaseException as error:
            error.add_note(f"run {number}, patch {bad.hex()}")
            raise
        else:  # the damage was undone, or made another good patch of it
            assert bad in patches, f"run {number}: {bad.hex()}"
            ends["undamaged"] += 1
    return ends


def _round(runs: int, seed: int, corpus: Path, seconds: float) -> dict[str, object]:
    """What was seen of so many runs."""
    start = time.monotonic()
    ends = fuzz(runs, seed, corpus, seconds)
    return {
        "runs": sum(ends.values()),
        "seed": seed,
        "corpus": len(list(corpus.glob("*.patch"))),
        "decoder": _decoder(),
        "ends": dict(sorted(ends.items())),
        "failures": 0,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seconds": round(time.monotonic() - start),
        "python": sys.version.split()[0],
    }


def _decoder() -> str:
    """The first 12 hexadecimal digits of SHA-256 over the decoder's source."""
    folder = Path(delta.__file__).parent
    sources = (path.read_bytes() for path in sorted(folder.glob("*.py")))
    return hashlib.sha256(b"".join(sources)).hexdigest()[:12]


def _earlier(out: Path | None) -> list[dict[str, Any]]:
    """The rounds that `out` tells of, if they are of this version of the format."""
    if out is None or not out.exists():
        return []
    document = json.loads(out.read_text())
    return list(document["processes"]) if document.get("version", 2) == VERSION else []


def main() -> None:
    """Fuzz in rounds, and write down what was seen after each of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, help="with those of earlier calls")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--resume", action="store_true", help="add to what --out tells of")
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    rounds = _earlier(args.out) if args.resume else []
    until = time.monotonic() + args.seconds
    seed = max([args.seed, *(done["seed"] + 1 for done in rounds)])
    while (left := args.runs - sum(done["runs"] for done in rounds)) > 0:
        seconds = until - time.monotonic()
        if seconds <= 0:
            break
        rounds.append(_round(min(left, _ROUND), seed, args.corpus, seconds))
        seed += 1
        document = {
            "version": VERSION,
            "runs": sum(done["runs"] for done in rounds),
            "failures": sum(done["failures"] for done in rounds),
            "processes": rounds,
        }
        text = json.dumps(document, indent=1) + "\n"
        if args.out:
            args.out.write_text(text)
        print(json.dumps(rounds[-1]), flush=True)


if __name__ == "__main__":
    main()
