"""Files of named arrays: the library reads and writes the same bytes, and damage is refused."""

import json
import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load, save

from skerry.devices.errors import BundleError
from skerry.runtime.bundle.arrays import read_arrays, write_arrays

_DTYPES = st.sampled_from(
    [*(f"{kind}{size}" for kind in "iu" for size in (1, 2, 4, 8)), "f2", "f4", "f8", "?"]
)
_ARRAYS = st.dictionaries(
    st.text(min_size=1, max_size=8),
    _DTYPES.flatmap(lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, min_side=0))),
    max_size=6,
)


@given(_ARRAYS)
def test_the_library_gives_the_same_bytes_and_reads_them(arrays):
    data = write_arrays(arrays)
    assert data == save({name: np.asarray(one, order="C") for name, one in arrays.items()})
    for found in (read_arrays(data), load(data)):
        assert found.keys() == arrays.keys()
        for name, one in arrays.items():
            assert found[name].dtype == one.dtype
            assert found[name].shape == one.shape
            assert found[name].tobytes() == one.tobytes()


@given(_ARRAYS, st.data())
def test_damage_is_refused_or_read_as_something_else(arrays, draw):
    data = bytearray(write_arrays(arrays))
    place = draw.draw(st.integers(0, len(data) - 1))
    data[place] ^= draw.draw(st.integers(1, 255))
    for damaged in (bytes(data), bytes(data[:place])):
        with suppress(BundleError):
            read_arrays(damaged)


def _file(entry):
    header = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "too short"),
        (struct.pack("<Q", 1 << 60) + b"{}", "a header of"),
        (_file({"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 8]}), "8 bytes for"),
        (_file({"dtype": "F32", "shape": [2], "data_offsets": [0, 99]}), "impossible"),
        (_file({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}), "impossible"),
        (_file({"dtype": "F4", "shape": [2], "data_offsets": [0, 1]}), "unknown dtype"),
        (_file({"dtype": "F32"}), "malformed header"),
    ],
)
def test_what_cannot_be_is_refused_before_memory_is_taken(data, problem):
    with pytest.raises(BundleError, match=problem):
        read_arrays(data)


def test_numbers_alone_can_be_held():
    with pytest.raises(BundleError, match="cannot hold"):
        write_arrays({"x": np.array(["text"])})
