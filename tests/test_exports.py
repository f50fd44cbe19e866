"""Every public module says what it exports, and says it exactly."""

import ast
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent
_FOLDERS = ["cli", "converter", "hw-bench", "updater", "telemetry", "runtime", "devices"]


def _public_modules() -> list[Path]:
    found = []
    for folder in _FOLDERS:
        for path in sorted((_ROOT / folder).rglob("*.py")):
            parts = path.relative_to(_ROOT / folder).with_suffix("").parts
            private = any(part.startswith("_") and part != "__init__" for part in parts)
            generated = path.stem.endswith("_pb2")
            if "skerry" in parts and "versions" not in parts and not private and not generated:
                found.append(path)
    return found


def _defined(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return {name for name in names if not name.startswith("_")}


def _exported(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == "__all__":
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    return None


@pytest.mark.parametrize("path", _public_modules(), ids=lambda p: str(p.relative_to(_ROOT)))
def test_all_is_exact(path: Path) -> None:
    tree = ast.parse(path.read_text())
    exported = _exported(tree)
    assert exported is not None, "no __all__"
    assert len(exported) == len(set(exported))
    defined = _defined(tree)
    if path.name == "__init__.py":
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert set(exported) <= defined | imported
        assert defined <= set(exported)
    else:
        assert set(exported) == defined


def test_the_namespace_has_no_init() -> None:
    assert not [f for f in _FOLDERS if (_ROOT / f / "skerry" / "__init__.py").exists()]
