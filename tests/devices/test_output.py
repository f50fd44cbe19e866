import io
import json

from skerry.devices.output import Output, human_bytes, table


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_is_one_document_on_stdout_and_nothing_else() -> None:
    out, err = io.StringIO(), io.StringIO()
    output = Output(as_json=True, out=out, err=err)
    output.note("working")
    with output.progress("counting", 3) as progress:
        progress.advance()
    output.result({"b": 1, "a": [1, 2]}, "text")
    assert json.loads(out.getvalue()) == {"a": [1, 2], "b": 1}
    assert err.getvalue() == "working\n"


def test_progress_is_drawn_on_a_terminal_and_says_when_it_was_stopped() -> None:
    err = _Terminal()
    output = Output(out=io.StringIO(), err=err)
    try:
        with output.progress("hashing", 2):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert "hashing: stopped" in err.getvalue()


def test_bytes_and_tables_for_people() -> None:
    assert [human_bytes(n) for n in (0, 999, 1500, 2_500_000)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.5 MB",
    ]
    assert table(["name", "ms"], [["a", "1.5"], ["bcd", "10.0"]]).splitlines() == [
        "name    ms",
        "────  ────",
        "a      1.5",
        "bcd   10.0",
    ]


def test_a_table_moves_no_terminal():
    text = table(["reason"], [["\x1b[2Jevil\r2026 fake\n"], ["x" * 2000], ["größer – ✓"]])
    assert len(text.splitlines()) == 5
    assert all(line.isprintable() for line in text.splitlines())
    assert "\\x1b[2Jevil\\r2026 fake\\n" in text
    assert max(map(len, text.splitlines())) <= 200
