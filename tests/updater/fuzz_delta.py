"""Apply damaged patches by the million: each is refused by a typed error.

    python tests/updater/fuzz_delta.py [--runs 1000000] [--seed 0] [--corpus DIR] [--out FILE]

The corpus is pairs of `NAME.old` and `NAME.patch`. Each run damages one patch (bits, bytes, cuts,
repeats, another patch's middle, large integers) and decodes it in memory that is limited, so that
a claim of absurd sizes that is believed ends in MemoryError.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path

from skerry.devices.errors import SkerryError
from skerry.updater.delta import Limits
from skerry.updater.delta.patching import decode

CORPUS = Path(__file__).parent / "delta_corpus"
_MEMORY_BYTES = 2 << 30
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
    patches = {patch for _, patch, _ in corpus}
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


def main() -> None:
    """Fuzz, and write down what was seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--corpus", type=Path, default=CORPUS)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    start = time.monotonic()
    ends = fuzz(args.runs, args.seed, args.corpus, args.seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    document = {
        "runs": sum(ends.values()),
        "seed": args.seed,
        "corpus": len(list(args.corpus.glob("*.patch"))),
        "ends": dict(sorted(ends.items())),
        "failures": 0,
        "peak_rss_bytes": peak,
        "seconds": round(time.monotonic() - start),
        "python": sys.version.split()[0],
    }
    text = json.dumps(document, indent=1) + "\n"
    if args.out:
        args.out.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
