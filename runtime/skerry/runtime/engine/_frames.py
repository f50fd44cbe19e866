"""Arrays between two processes: a length, a msgpack header, the bytes of the arrays."""

from __future__ import annotations

import math
import socket
import struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from skerry.runtime.bundle.card import TensorSpec

_SIZES = struct.Struct("<IQ")
_HEADER_BYTES = 1 << 20
_PAYLOAD_BYTES = 4 << 30


class Frame(msgspec.Struct, frozen=True):
    """The header of a message.

    Attributes:
        tensors: name, dtype and shape of each array whose bytes follow, in order.
        error: what went wrong, in place of arrays.
        name, inputs, outputs: what the engine is, in the first message of a worker.
    """

    tensors: tuple[TensorSpec, ...] = ()
    error: str | None = None
    name: str = ""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


def send(sock: socket.socket, arrays: dict[str, NDArray[Any]], frame: Frame | None = None) -> None:
    """Write one message."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    if frame is None:
        specs = (TensorSpec(name, array.dtype.str, array.shape) for name, array in arrays.items())
        frame = Frame(tensors=tuple(specs))
    header = _encode(frame)
    payload = sum(array.nbytes for array in arrays.values())
    sock.sendall(_SIZES.pack(len(header), payload) + header)
    for array in arrays.values():
        if array.nbytes:
            sock.sendall(array.reshape(-1).view(np.uint8).data)


def receive(sock: socket.socket) -> tuple[Frame, dict[str, NDArray[Any]]]:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
        ValueError: what came is no message.
    """
    header_size, payload_size = _SIZES.unpack(_exactly(sock, _SIZES.size))
    if header_size > _HEADER_BYTES or payload_size > _PAYLOAD_BYTES:
        raise ValueError(f"a message of {header_size} + {payload_size} bytes")
    frame = _decode(_exactly(sock, header_size))
    payload = _exactly(sock, payload_size)
    arrays: dict[str, NDArray[Any]] = {}
    offset = 0
    for spec in frame.tensors:
        dtype, count = np.dtype(spec.dtype), math.prod(spec.shape)
        flat = np.frombuffer(payload, dtype, count, offset)
        arrays[spec.name] = flat.reshape(spec.shape)
        offset += flat.nbytes
    return frame, arrays


def _exactly(sock: socket.socket, size: int) -> bytearray:
    data = bytearray(size)
    view, got = memoryview(data), 0
    while got < size:
        count = sock.recv_into(view[got:])
        if count == 0:
            raise EOFError("the other side is gone")
        got += count
    return data
