"""Parquet: one column per input under the input's name, and `label`.

An input's column holds numbers (a scalar per row, or a list in row-major order), or encoded
pictures: bytes, or a struct with the field `bytes`. Numbers take the input's dtype where that keeps
them; only floats may be rounded, to the nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skerry.converter.data.images import decode
from skerry.converter.recipe import Input
from skerry.devices.errors import InputError, MissingExtraError

__all__ = ["read_parquet"]

_LARGEST_BYTES = 8 << 30


def read_parquet(path: Path, inputs: Mapping[str, Input], label: str) -> dict[str, NDArray[Any]]:
    """The columns of the inputs, and `label` where there is one.

    Raises:
        MissingExtraError: pyarrow is not installed.
        InputError: the file is damaged, too large, or a column has another form.
    """
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "converter", missing="pyarrow", needed_by=f"Parquet data {path.name}"
        ) from error
    try:
        file = parquet.ParquetFile(path)
        sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
        if sum(sizes) > _LARGEST_BYTES:
            raise InputError(f"more than {_LARGEST_BYTES >> 30} GiB", where=path)
        wanted = [name for name in [*inputs, label] if name in file.schema_arrow.names]
        table = file.read(columns=wanted)
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"cannot be read as Parquet: {error}", where=path) from error
    return {name: _column(path, name, table.column(name), inputs.get(name)) for name in wanted}


def _column(path: Path, name: str, column: Any, spec: Input | None) -> NDArray[Any]:
    if column.null_count:
        raise InputError(
            f"{column.null_count} rows of {name!r} are empty",
            where=path,
            remedy="fill or drop them",
        )
    values = column.to_pylist()
    if spec is None:
        return _numbers(path, name, values)
    if values and isinstance(values[0], dict):
        values = [value.get("bytes") for value in values]
    if values and isinstance(values[0], bytes):
        return np.stack([decode(v, spec, f"{path}: {name}, row {i}") for i, v in enumerate(values)])
    numbers = _numbers(path, name, values)
    try:
        return _cast(path, name, numbers.reshape(len(values), *spec.caller_shape), spec)
    except ValueError as error:
        raise InputError(
            f"{name!r} does not have the shape {list(spec.caller_shape)}: {error}",
            where=path,
            remedy=f"correct input.{name}.shape, or the column",
        ) from error


def _numbers(path: Path, name: str, values: list[Any]) -> NDArray[Any]:
    """Equally long rows as one array."""
    try:
        return np.array(values)
    except (ValueError, OverflowError) as error:
        raise InputError(
            f"the rows of {name!r} do not have one shape: {error}",
            where=path,
            remedy="let every row have as many values",
        ) from error


def _cast(path: Path, name: str, numbers: NDArray[Any], spec: Input) -> NDArray[Any]:
    """The numbers in the dtype that callers pass, if it holds them."""
    wanted = np.dtype(spec.dtype)
    if numbers.dtype.kind in "biuf":
        with np.errstate(invalid="ignore", over="ignore"):
            cast = numbers.astype(wanted)
        rounded = numbers.dtype.kind == wanted.kind == "f"
        if rounded or np.array_equal(cast, numbers):
            return cast
    raise InputError(
        f"{name!r} holds {numbers.dtype} values that {wanted} does not hold, and the recipe's "
        f"input.{name}.dtype says {wanted}",
        where=path,
        remedy="correct the dtype on either side",
    )
