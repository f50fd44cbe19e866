"""The documents are true: transcripts are recorded ones, commands and links exist."""

import json
import re
import runpy
from pathlib import Path

import pytest

from skerry.cli.table import COMMANDS

_ROOT = Path(__file__).parent.parent
_DOCUMENTS = sorted(
    path
    for path in [*_ROOT.glob("*.md"), *_ROOT.glob("*/README.md"), *_ROOT.glob("docs/**/*.md")]
    if ".venv" not in path.parts
)


def test_the_transcript_is_the_recorded_one() -> None:
    record = json.loads((_ROOT / "hw-bench" / "results" / "road.json").read_text())
    shown = re.search(
        r"<!-- transcript.*?-->\n```\n(.*?)```\n<!-- end", (_ROOT / "README.md").read_text(), re.S
    )
    assert shown is not None
    assert shown[1].strip("\n") == "\n".join(record["transcript"]).strip("\n")


def test_the_measurements_are_those_of_the_result_files() -> None:
    made = runpy.run_path(str(_ROOT / "hw-bench" / "headlines.py"))
    shown = (_ROOT / "README.md").read_text().partition(made["BEGIN"])[2].partition(made["END"])[0]
    assert shown == made["table"]()


@pytest.mark.parametrize("path", _DOCUMENTS, ids=lambda p: str(p.relative_to(_ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text()):
        assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", _DOCUMENTS, ids=lambda p: str(p.relative_to(_ROOT)))
def test_commands_in_code_blocks_exist(path: Path) -> None:
    names = {entry.name for entry in COMMANDS}
    for block in re.findall(r"```(?:sh)?\n(.*?)```", path.read_text(), re.S):
        for name in re.findall(r"^(?:\S*/)?skerry ([a-z]+)", block, re.M):
            assert name in names, f"skerry {name}"


def test_paths_named_in_the_readme_exist() -> None:
    text = (_ROOT / "README.md").read_text()
    for name in re.findall(
        r"`((?:examples|deploy|docs|converter|runtime|hw-bench)/[\w/.-]*)`", text
    ):
        assert (_ROOT / name).exists(), name
