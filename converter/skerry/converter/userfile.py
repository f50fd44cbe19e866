"""`file.py:name`: a function of the user's own, such as a model factory or a data set.

Loading one runs the user's file. That is the user's build on the user's machine; nothing that comes
over the network is ever loaded this way.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skerry.devices.errors import InputError

__all__ = ["UserFunction", "imported_files"]

_PROGRAM = ("__main__", "__mp_main__")
_INSTALLED = {"site-packages", "dist-packages"}


@dataclass(frozen=True)
class UserFunction:
    """A function at the top level of a Python file."""

    file: Path
    name: str

    def __str__(self) -> str:
        return f"{self.file.name}:{self.name}"

    @classmethod
    def parse(cls, text: str, folder: Path) -> UserFunction | None:
        """Read `file.py:name`, relative to `folder`; None if `text` has another form."""
        file, colon, name = text.rpartition(":")
        if not colon or not file.endswith(".py") or not name.isidentifier():
            return None
        return cls((folder / file).resolve(), name)

    def problem(self) -> tuple[str, str] | None:
        """What is wrong and the remedy, found without running the file; None if it is there."""
        if not self.file.is_file():
            return (
                f"there is no file {self.file}",
                "check the path, relative to the recipe's folder",
            )
        try:
            tree = ast.parse(self.file.read_bytes())
        except (SyntaxError, ValueError) as error:
            return f"{self.file.name} is not valid Python: {error}", "correct the file"
        names = _names(tree)
        if self.name in names:
            return None
        offered = ", ".join(sorted(name for name in names if not name.startswith("_"))) or "nothing"
        return f"{self.file.name} defines no {self.name!r}", f"it defines: {offered}"

    def load(self) -> Callable[..., Any]:
        """Run the file (once per process) and return the function.

        Raises:
            InputError: the file cannot be run, or has no such function.
        """
        digest = hashlib.sha256(str(self.file).encode()).hexdigest()[:12]
        key = f"_skerry_user_{digest}_{self.file.stem}"
        module = sys.modules.get(key)
        if module is None:
            spec = importlib.util.spec_from_file_location(key, self.file)
            if spec is None or spec.loader is None:
                raise InputError("cannot be loaded as Python", where=self.file)
            module = importlib.util.module_from_spec(spec)
            sys.modules[key] = module
            sys.path.insert(0, str(self.file.parent))
            try:
                spec.loader.exec_module(module)
            except Exception as error:
                del sys.modules[key]
                raise InputError(
                    f"running it raised {type(error).__name__}: {error}",
                    where=self.file,
                    remedy="make the file importable by itself",
                ) from error
            finally:
                sys.path.remove(str(self.file.parent))
        found = getattr(module, self.name, None)
        if not callable(found):
            raise InputError(f"{self.name!r} is not a function", where=self.file)
        return found  # type: ignore[no-any-return]  # callable() narrows to object -> object

    def call(self, *arguments: Any) -> Any:
        """Call it, turning what it raises into an InputError that names it."""
        function = self.load()
        try:
            return function(*arguments)
        except Exception as error:
            raise InputError(
                f"{self.name} raised {type(error).__name__}: {error}",
                where=self.file,
                remedy="correct the function",
            ) from error


def imported_files() -> dict[str, Path]:
    """The files of every module of the user's own that this process has imported, by module.

    Those are all that belong neither to a distribution among the installed, nor to the standard
    library, nor to skerry; packages that are installed to be edited are the user's own.
    """
    library = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
    found = {}
    for name, module in list(sys.modules.items()):
        text = getattr(module, "__file__", None)
        if not isinstance(text, str) or name.partition(".")[0] in ("skerry", *_PROGRAM):
            continue
        path = Path(text)
        if _INSTALLED.isdisjoint(path.parts) and not any(map(path.is_relative_to, library)):
            # What is imported from a zip is known by the zip.
            file = next((one for one in (path, *path.parents) if one.is_file()), None)
            if file is not None:
                found[name] = file.resolve()
    return found


def _names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
    return names
