"""Walk the road once and put what it printed into hw-bench/results/road.json and the README."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "hw-bench" / "results" / "road.json"
BEGIN = "<!-- transcript: hw-bench/results/road.json, made by `make record` -->\n```\n"
END = "```\n<!-- end of transcript -->"


def main() -> None:
    words = [sys.executable, "-m", "examples.road", "--record", str(RECORD)]
    subprocess.run(words, cwd=ROOT, check=True)
    lines = json.loads(RECORD.read_text())["transcript"]
    readme = ROOT / "README.md"
    before, _, rest = readme.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    transcript = "\n".join(lines).strip("\n") + "\n"
    readme.write_text(before + BEGIN + transcript + END + after)


if __name__ == "__main__":
    main()
