"""Objects that travel between processes: everything that the ranks exchange arrives equal, and nothing else is carried."""

from __future__ import annotations

import json
import math
import pickle
import random
from collections import OrderedDict
from contextlib import suppress
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alpro.distributed.objects import ARRAY_DTYPES, DTYPES, decode, encode
from alpro.errors import LaunchError
from tests.launch.strangers import Trap


class Colour(IntEnum):
    RED = 1


def same(a: Any, b: Any) -> bool:
    """Return True if two objects are equal in type and value, NaN included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy(force=True).tobytes() == b.numpy(force=True).tobytes()
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(type(p) is type(q) and same(a[p], b[q]) for p, q in zip(a, b, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b or (isinstance(a, float) and math.isnan(a) and math.isnan(b))


@pytest.mark.parametrize(
    "value",
    [
        None, True, 0, -(2**70), 0.1, 5e-324, math.nan, -math.inf, "", "caf\u00e9 \U0001f600", "lone \udc80", b"", b"\x00\xff",
        [], (), {}, [1, (2, [3]), {"a": (None,)}], {1: "one", "1": "text", (1, 2): 0.5, None: []}, {"tuple": [1]}, {"dict": []},
        (None, {3: (np.arange(6, dtype=np.float32).reshape(2, 3), np.array([True]))}), np.empty((0, 5), np.float32),
        np.array(2.5), np.asfortranarray(np.arange(6).reshape(2, 3)), torch.tensor(1.5),
        torch.empty(0, 3), torch.arange(12)[::2],
    ],
)  # fmt: skip
def test_object_arrives_with_its_types_and_values(value: Any) -> None:
    assert same(decode(encode(value)), value)


@pytest.mark.parametrize("name", DTYPES)
def test_numbers_of_every_type_keep_their_bits(name: str) -> None:
    numbers = torch.randint(
        0, 256, (3, 5, DTYPES[name].itemsize), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    tensor = numbers.bool()[..., 0] if name == "bool" else numbers.view(DTYPES[name])
    arrived = decode(encode([tensor]))[0]
    assert arrived.dtype == tensor.dtype and torch.equal(arrived.view(torch.uint8), tensor.view(torch.uint8))
    if name in ARRAY_DTYPES:
        array = decode(encode(tensor.numpy()))
        assert array.dtype == ARRAY_DTYPES[name] and array.tobytes() == tensor.numpy().tobytes() and array.flags.writeable


def test_scalars_of_numpy_arrive_as_numbers_and_arrays_in_native_byte_order() -> None:
    assert decode(encode([np.float32(0.5), np.int64(3), np.bool_(True)])) == [0.5, 3, True]
    assert decode(encode(np.array([1, 2], ">i4"))).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"a": [1, {2}]}, r"the object\['a'\]\[1\] is a set"),
        ([Path("x")], r"the object\[0\] is a PosixPath"),
        (Colour.RED, "is a Colour"),
        (OrderedDict(a=1), "is a OrderedDict"),
        ({Path("x"): 1}, "a key of the object is a PosixPath"),
        (np.array(["a"]), "is a ndarray of <U1"),
        (np.array([object()]), "is a ndarray of object"),
        (torch.tensor([1j]), "is a Tensor of torch.complex64"),
        (print, "is a builtin_function_or_method"),
    ],
)
def test_anything_else_is_refused_and_the_place_is_named(value: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message + ".*cannot be sent to another process"):
        encode(value)


def framed(header: object, contents: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "big") + text + contents


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\x00" * 7, b"\xff" * 40, framed(b"{"), framed(b"\xff"), framed([1], b"left over"), framed({"bytes": 4}, b"abc"),
        framed({"bytes": -1}), framed({"bytes": True}, b"a"), framed({"tensor": ["float32", [2, -1]]}, b"12345678"),
        framed({"tensor": ["float32", [10**12]]}), framed({"tensor": ["object", [1]]}, b"1"),
        framed({"array": ["O", [1]]}, b"12345678"), framed({"array": ["<U1", [1]]}, b"1234"),
        framed({"array": ["float32", [1.0]]}, b"1234"), framed({"array": ["float32", None]}), framed({"tuple": 3}),
        framed({"dict": [[[], 1]]}), framed({"dict": [1]}), framed({"set": []}), framed({}), framed({"tuple": [], "dict": []}),
        framed(b"[" * 200_000 + b"]" * 200_000), framed(b"9" * 5000),
    ],
)  # fmt: skip
def test_any_other_message_is_refused_in_one_line(message: bytes) -> None:
    with pytest.raises(LaunchError, match="another process sent a message that is not valid") as refused:
        decode(message)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_that_would_create_a_file_creates_none(tmp_path: Path, protocol: int) -> None:
    trap = pickle.dumps(Trap(tmp_path / "ran"), protocol)
    for message in (trap, framed(trap), framed({"bytes": len(trap)}, trap), framed({"array": ["object", [1]]}, trap)):
        with suppress(LaunchError):
            assert decode(message) == trap
    assert not (tmp_path / "ran").exists()
    pickle.loads(trap)  # the trap itself works
    assert (tmp_path / "ran").exists()


def test_damaged_messages_are_refused_or_give_plain_values() -> None:
    generator = random.Random(5)
    whole = encode([None, {"a": (1, 0.5)}, "text", b"1234", torch.arange(4.0), np.arange(3)])
    for _ in range(2000):
        damaged = bytearray(whole[: generator.randrange(len(whole) + 1)] if generator.random() < 0.3 else whole)
        for _ in range(generator.randrange(4)):
            if damaged:
                damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        try:
            decode(bytes(damaged))
        except LaunchError as error:
            assert "\n" not in str(error)
