"""`.pt2`: a program saved by `torch.export.save`.

`torch.export.load` unpickles what an archive asks it to, and evaluates the text of symbolic shapes;
so the archive is looked through first, and one that holds anything but tensors and plain
arithmetic is refused.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skerry.converter.source.finite import check_finite
from skerry.devices.errors import InputError

__all__ = ["ExportedSource"]

_LARGEST_BYTES = 8 << 30
_LARGEST_JSON_BYTES = 256 << 20
_PARTS = re.compile(
    r"[^/]+/(data/(weights|constants)/(weight_\d+|tensor_\d+|model_(weights|constants)_config\.json)"
    r"|models/model\.json|data/sample_inputs/model\.pt|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id))"
)
_WORDS = {
    *("Add", "CeilDiv", "CleanDiv", "False", "FloorDiv", "Integer", "Max", "Min", "Mod", "Mul"),
    *("Pow", "PythonMod", "Rational", "Symbol", "True", "integer", "negative", "nonnegative"),
    *("nonpositive", "nonzero", "positive", "zero"),
}
_WORD = re.compile(r"[A-Za-z_]\w*")
_SYMBOL = re.compile(r"[suz]\d+")
_ARITHMETIC = re.compile(r"[\w\s+*/(),<>=&|~'-]*")


class ExportedSource:
    """`ModelSource` of an exported program; its batch normalisation stays as it was exported."""

    kind = "pt2"

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def name(self) -> str:
        return self._path.name

    def materials(self) -> Mapping[str, Path]:
        return {self._path.name: self._path}

    def inputs(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """Name, dtype and shape of one row of each input; 0 where a length is open."""
        program = self._program()
        names = set(program.graph_signature.user_inputs)
        found = []
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in names:
                value = node.meta["val"]
                row = tuple(one if isinstance(one, int) else 0 for one in value.shape[1:])
                found.append((node.name, str(value.dtype).removeprefix("torch."), row))
        return found

    def module(self) -> nn.Module:
        graph = self._program().module(check_guards=False)
        check_finite(graph, self._path)
        return _Program(graph)

    def _program(self) -> torch.export.ExportedProgram:
        _check_archive(self._path)
        try:
            return torch.export.load(self._path)
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"cannot be loaded: {reason}",
                where=self._path,
                remedy=f"export it again with torch {torch.__version__.partition('+')[0]}",
            ) from error


class _Program(nn.Module):
    """An exported graph, which knows only the mode it was exported in."""

    def __init__(self, graph: nn.Module) -> None:
        super().__init__()
        self.graph = graph
        self.training = False

    def train(self, mode: bool = True) -> _Program:
        self.training = mode
        return self

    def forward(self, *inputs: Tensor) -> Any:
        return self.graph(*inputs)


def _check_archive(path: Path) -> None:
    """Raise InputError unless the archive holds tensors and plain arithmetic alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _LARGEST_BYTES:
                raise _refused(path, f"more than {_LARGEST_BYTES >> 30} GiB")
            for info in archive.infolist():
                if not _PARTS.fullmatch(info.filename):
                    raise _refused(path, f"holds {info.filename!r}, which is no tensor")
                if info.filename.endswith(".json"):
                    if info.file_size > _LARGEST_JSON_BYTES:
                        raise _refused(path, "its description is too large")
                    _check_document(path, json.loads(archive.read(info)))
                elif info.filename.endswith(".pt"):
                    torch.load(io.BytesIO(archive.read(info)), weights_only=True)
    except InputError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _refused(path, f"cannot be read: {reason}") from error


def _refused(path: Path, problem: str) -> InputError:
    return InputError(
        problem, where=path, remedy="save it with torch.export.save, or give safetensors"
    )


def _check_document(path: Path, document: Any) -> None:
    for key, value in _fields(document):
        if key == "use_pickle" and value:
            raise _refused(path, "holds pickled objects")
        if key == "expr_str" and not _plain(str(value)):
            raise _refused(path, f"holds a shape that is no arithmetic: {str(value)[:40]!r}")


def _fields(document: Any) -> Iterator[tuple[str, Any]]:
    waiting = [document]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            yield from one.items()
            waiting += one.values()
        elif isinstance(one, list):
            waiting += one


def _plain(text: str) -> bool:
    words = _WORD.findall(text)
    known = all(word in _WORDS or _SYMBOL.fullmatch(word) for word in words)
    return known and bool(_ARITHMETIC.fullmatch(text))
