import json
import subprocess
import sys
from pathlib import Path

import pytest

from skerry.cli.main import main
from skerry.cli.table import COMMANDS


def _modules_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_lists_every_command_and_imports_nothing_heavy() -> None:
    loaded = _modules_after("from skerry.cli.main import main; main(['--help'])")
    assert not loaded & {"numpy", "torch", "msgspec", "onnxruntime", "cryptography"}


def test_an_unknown_command_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convrt"]) == 2
    assert "no command 'convrt'" in capsys.readouterr().err


def test_a_missing_package_names_the_extra(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for name in [m for m in sys.modules if m.startswith("skerry.updater.server")]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["fleet", "serve", "--home", "/nonexistent"]) == 5
    assert "pip install 'skerry[server]'" in capsys.readouterr().err


def test_help_is_there_where_a_package_is_not(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "backports", None)
    for name in [m for m in sys.modules if m.startswith(("skerry.updater.delta", "backports."))]:
        monkeypatch.delitem(sys.modules, name)
    assert main(["delta", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("skerry delta: ")
    assert "'backports.zstd'" in text
    assert "pip install 'skerry[device]'" in text


@pytest.mark.parametrize("entry", COMMANDS, ids=lambda entry: entry.name)
def test_every_command_explains_itself(entry, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([entry.name, "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert "--json" in text
    assert len(text.splitlines()) > 5


def test_the_command_is_installed() -> None:
    program = Path(sys.executable).with_name("skerry")
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("skerry ")
