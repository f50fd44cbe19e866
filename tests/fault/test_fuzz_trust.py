"""A short run of `fuzz_trust.py`; the long one writes `hw-bench/results/trust_fuzz.json`."""

import importlib.util
import os
import sys
from pathlib import Path

RUNS = int(os.environ.get("SKERRY_FUZZ_RUNS", "4000"))


def test_hostile_files_are_refused_or_true() -> None:
    spec = importlib.util.spec_from_file_location(
        "fuzz_trust", Path(__file__).with_name("fuzz_trust.py")
    )
    assert spec and spec.loader
    module = sys.modules["fuzz_trust"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.fuzz(RUNS, seed=11)
    assert len(found["ends"]) == 17 and sum(found["devices"].values()) == -(-RUNS // 400)
