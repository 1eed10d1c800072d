"""Objects of all ranks, sent as JSON and raw numbers: what arrives from another process never runs as code.

A message is eight bytes (the length of the JSON), the JSON, and the contents of all tensors, arrays and bytes, in order.
In the JSON, lists and plain values stand for themselves; every JSON object is one of the tags in `_decode`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from alpro.distributed.collectives import row_sizes
from alpro.distributed.world import active_backend, rank
from alpro.errors import LaunchError

HEADER_BYTES = 8
DTYPES = {
    name: getattr(torch, name)
    for name in ("bool", "uint8", "int8", "int16", "int32", "int64", "float16", "bfloat16", "float32", "float64")
}
ARRAY_DTYPES = {name: np.dtype(name) for name in DTYPES if name != "bfloat16"}


def gather_objects(value: Any) -> list[Any]:
    """Return the objects of all ranks, in rank order, on every rank.

    Raises TypeError for an object that `encode` refuses, and LaunchError if another rank's message is not valid.
    """
    if (backend := active_backend()) is None:
        return [value]
    data = torch.frombuffer(bytearray(encode(value)), dtype=torch.uint8)
    sizes = row_sizes(len(data))
    gathered = backend.all_gather(data, "objects", rows=sizes)
    return [decode(piece.numpy().tobytes()) for piece in gathered.split(sizes)]


def broadcast_object(value: Any, root: int = 0) -> Any:
    """Return the root's object on every rank; the values of the other ranks are ignored.

    Raises TypeError for an object that `encode` refuses, and LaunchError if the root's message is not valid.
    """
    if (backend := active_backend()) is None:
        return value
    message = encode(value) if rank() == root else b""
    length = torch.tensor([len(message)])
    backend.broadcast(length, root, "object.length")
    data = torch.frombuffer(bytearray(message or int(length.item())), dtype=torch.uint8)
    backend.broadcast(data, root, "object")
    return decode(data.numpy().tobytes())


def encode(value: Any) -> bytes:
    """Return an object as bytes: None, numbers, texts, bytes, tensors, arrays, and lists, tuples and dictionaries of them.

    NumPy's scalars become Python numbers, and tensors arrive on the CPU without gradients. Raises TypeError for anything
    else, naming the place.
    """
    contents: list[bytes] = []
    text = json.dumps(_encode(value, "the object", contents)).encode("ascii")
    return b"".join([len(text).to_bytes(HEADER_BYTES, "big"), text, *contents])


def decode(message: bytes) -> Any:
    """Return the object of a message of `encode`. Raises LaunchError for any other bytes; nothing in them is executed."""
    start = HEADER_BYTES + int.from_bytes(message[:HEADER_BYTES], "big")
    try:
        if not HEADER_BYTES <= start <= len(message):
            raise ValueError("the length is wrong")
        contents = _Contents(message, start)
        value = _decode(json.loads(message[HEADER_BYTES:start].decode("ascii")), contents)
        if contents.position != len(message):
            raise ValueError("bytes are left over")
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError) as error:
        raise LaunchError(f"another process sent a message that is not valid ({error}); is it a rank of this run?") from None
    return value


class _Contents:
    """The raw part of a message, read from front to back."""

    def __init__(self, message: bytes, position: int) -> None:
        self.message, self.position = message, position

    def read(self, length: int) -> bytearray:
        if type(length) is not int or not 0 <= length <= len(self.message) - self.position:
            raise ValueError("contents are missing")
        self.position += length
        return bytearray(self.message[self.position - length : self.position])

    def read_numbers(self, shape: list[int], itemsize: int) -> bytearray:
        if not all(type(length) is int and length >= 0 for length in shape):
            raise ValueError("a shape is wrong")
        return self.read(math.prod(shape) * itemsize)


def _encode(value: Any, place: str, contents: list[bytes]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        items = [_encode(item, f"{place}[{number}]", contents) for number, item in enumerate(value)]
        return items if type(value) is list else {"tuple": items}
    if type(value) is dict:
        return {"dict": list(_encode_items(value, place, contents))}
    if type(value) in (bytes, bytearray):
        contents.append(bytes(value))
        return {"bytes": len(value)}
    if isinstance(value, torch.Tensor) and (name := str(value.dtype).removeprefix("torch.")) in DTYPES:
        contents.append(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {"tensor": [name, list(value.shape)]}
    if isinstance(value, np.ndarray) and value.dtype.name in ARRAY_DTYPES:
        contents.append(value.astype(value.dtype.newbyteorder("="), copy=False).tobytes())
        return {"array": [value.dtype.name, list(value.shape)]}
    kind = f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
    raise TypeError(f"{place} is a {kind}, which cannot be sent to another process")


def _encode_items(value: dict[Any, Any], place: str, contents: list[bytes]) -> Iterator[list[Any]]:
    for key, item in value.items():
        yield [_encode(key, f"a key of {place}", contents), _encode(item, f"{place}[{key!r}]", contents)]


def _decode(value: Any, contents: _Contents) -> Any:
    if isinstance(value, list):
        return [_decode(item, contents) for item in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag == "tuple":
        return tuple(_decode(item, contents) for item in content)
    if tag == "dict":
        return {_decode(key, contents): _decode(item, contents) for key, item in content}
    if tag == "bytes":
        return bytes(contents.read(content))
    name, shape = content
    if tag == "tensor":
        dtype = DTYPES[name]
        numbers = contents.read_numbers(shape, dtype.itemsize)
        # frombuffer refuses an empty buffer
        return torch.frombuffer(numbers, dtype=dtype).reshape(shape) if numbers else torch.empty(shape, dtype=dtype)
    if tag == "array":
        return np.frombuffer(contents.read_numbers(shape, ARRAY_DTYPES[name].itemsize), ARRAY_DTYPES[name]).reshape(shape)
    raise ValueError(f"{tag!r} is unknown")
