"""Reads the tensors of a torch file without executing anything in it: `alpro weights import --sanitize`.

Only calls of torch's functions that rebuild a tensor are understood, and their arguments are checked; every other class and
function in the file is ignored and reported. Both of torch's formats are read: the zip and the older one.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from alpro.checkpoints.inert_pickle import MAX_BYTES, Call, Name, PersistentId, Pickle, read_pickle
from alpro.checkpoints.layout import is_zip
from alpro.errors import CheckpointError
from alpro.files.names import brief

AGAIN = "copy or download it again"
ZIP_ERRORS = (zipfile.BadZipFile, OSError, EOFError, RuntimeError, ValueError, LookupError, OverflowError, struct.error)
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # begin torch's older format
MAX_TENSORS, MAX_DEPTH, MAX_DIMENSIONS = 100_000, 64, 16
DTYPES = {  # by the names of torch's storage classes
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32, "ShortStorage": torch.int16,
    "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
REBUILD = {f"torch._utils.{name}" for name in ("_rebuild_tensor", "_rebuild_tensor_v2")}
WRAP = {f"torch._utils.{name}" for name in ("_rebuild_parameter", "_rebuild_parameter_with_state")}
TIED = 4  # how many times a storage may be loaded: names of tied tensors
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
SAFE = {
    *REBUILD, *WRAP, SUBCLASS, "collections.OrderedDict", "torch.Size", "builtins.set", "__builtin__.set",
    *(f"torch.{name}" for name in DTYPES),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor that a file describes: its storage, and the part of the storage that it shows."""

    storage: str
    dtype: torch.dtype
    elements: int  # of the storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, values: bytes | memoryview) -> Tensor:
        """Return the tensor from its storage's bytes, which are copied."""
        if not self.elements:
            return torch.empty(self.shape, dtype=self.dtype)
        flat = torch.frombuffer(bytearray(values), dtype=self.dtype)
        return flat.as_strided(self.shape, self.stride, self.offset).clone()


@dataclass
class InertFile:
    """Content of a torch file: dicts with a StoredTensor for each tensor, and the names that are not executed."""

    content: Any
    foreign: list[str]
    values: Callable[[StoredTensor], bytes | memoryview]
    budget: int  # bytes that may still be loaded: entries of a zip may overlap

    def load(self, tensor: StoredTensor) -> Tensor:
        """Return a tensor. Raises CheckpointError if the file lacks its values or claims far more than its size."""
        self.budget -= tensor.elements * tensor.dtype.itemsize
        if self.budget < 0:
            raise CheckpointError("its tensors claim far more values than the file stores")
        return tensor.view(self.values(tensor))


def read_inert(path: Path) -> InertFile:
    """Read a torch file in the zip or the older format. Raises CheckpointError if it is neither, or is damaged."""
    file = _open(path)
    content = _Plain().convert(file.pickle.content)
    return InertFile(content, foreign_names(file.pickle), file.values, TIED * path.stat().st_size)


def scan(path: Path) -> tuple[list[str], bool]:
    """Return the classes and functions of a torch file that tensors do not need, and if it has nested mapping keys.

    Raises CheckpointError as `read_inert` does.
    """
    pickle = _open(path).pickle
    return foreign_names(pickle), pickle.nested_keys


def foreign_names(pickle: Pickle) -> list[str]:
    """Return the classes and functions that are not needed for tensors and mappings, sorted."""
    return sorted(str(name) for name in pickle.names if str(name) not in SAFE)


def damaged(error: Exception) -> CheckpointError:
    """Return the error for a damaged file, with the reason in one line."""
    return CheckpointError(f"damaged ({brief(' '.join(str(error).split()), 100) or type(error).__name__}); {AGAIN}")


def _open(path: Path) -> _Zip | _Older:
    try:
        return _Zip(path) if is_zip(path) else _Older(path)
    except ZIP_ERRORS as error:
        raise damaged(error) from None


class _Zip:
    """A file of torch 1.6 or later: a zip with a pickle and the values of each storage."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            self.files = {entry.filename: entry for entry in entries}
            pickles = [name for name in self.files if name.rpartition("/")[2] == "data.pkl"]
            if len(pickles) != 1 or len(self.files) < len(entries):
                raise CheckpointError("its zip has entries of the same name, or not exactly one data.pkl")
            self.folder = pickles[0].removesuffix("data.pkl")
            order = self.files.get(f"{self.folder}byteorder")
            if order is not None and _entry(archive, order, 16) != b"little":
                raise CheckpointError("in the byte order of another kind of machine; save it again on this one")
            self.pickle = read_pickle(io.BytesIO(_entry(archive, self.files[pickles[0]], MAX_BYTES)))

    def values(self, tensor: StoredTensor) -> bytes:
        """Return the bytes of a tensor's storage. Raises CheckpointError if they are missing."""
        size = tensor.elements * tensor.dtype.itemsize
        entry = self.files.get(f"{self.folder}data/{tensor.storage}")
        if entry is None or entry.file_size != size:
            raise CheckpointError(f"the values of a tensor are missing or not {size} bytes; {AGAIN}")
        with zipfile.ZipFile(self.path) as archive:
            return _entry(archive, entry, size)


def _entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """Return an entry of a torch file, which is never compressed, so that it cannot be larger than the file."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > limit or entry.file_size != entry.compress_size:
        raise CheckpointError(f"its zip entry {entry.filename[:60]!r} is compressed or too large, unlike torch's")
    try:
        return archive.read(entry)
    except ZIP_ERRORS as error:
        raise damaged(error) from None


class _Older:
    """A file of torch before 1.6: some pickles, then the values of each storage. A bare pickle has no values."""

    def __init__(self, path: Path) -> None:
        self.data = memoryview(path.read_bytes())
        self.position = 0
        self.places: dict[str, tuple[int, int]] = {}  # storage -> start and size of its values
        self.pickle = self._next_pickle()
        if self.pickle.content == MAGIC:
            protocol, system = self._next_pickle().content, self._next_pickle().content
            if protocol != PROTOCOL or type(system) is not dict or system.get("little_endian") is not True:
                raise CheckpointError("an unknown version of torch's older format; save it again with a current torch")
            self.pickle = self._next_pickle()
            self._find_values()

    def values(self, tensor: StoredTensor) -> memoryview:
        """Return the bytes of a tensor's storage. Raises CheckpointError if they are missing."""
        start, size = self.places.get(tensor.storage, (0, -1))
        if size != tensor.elements * tensor.dtype.itemsize:
            raise CheckpointError("the values of a tensor are missing; save the state dict again, with torch.save")
        return self.data[start : start + size]

    def _next_pickle(self) -> Pickle:
        source = io.BytesIO(self.data[self.position : self.position + MAX_BYTES])
        pickle = read_pickle(source)
        self.position += source.tell()
        return pickle

    def _find_values(self) -> None:
        keys = self._next_pickle().content
        sizes = {storage: elements * dtype.itemsize for storage, dtype, elements in _storages(self.pickle.content)}
        for key in keys if type(keys) is list else ():
            size = sizes.get(key) if type(key) is str else None
            if size is None:
                return  # a storage of a kind that is not read: the values behind it cannot be found
            start = self.position + 8  # after the number of elements
            if start + size > len(self.data):
                raise CheckpointError(f"cut short (values are missing); {AGAIN}")
            self.places[key] = (start, size)
            self.position = start + size


# --- tensors ----------------------------------------------------------------------------------------------


def _storages(content: Any) -> Iterator[tuple[str, torch.dtype, int]]:
    """Yield the key, type and number of elements of every storage that a pickle's content refers to."""
    seen, todo = set[int](), [content]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, PersistentId):
            if found := _storage(value):
                yield found
        elif isinstance(value, Call):
            todo += [value.args, value.state, value.entries, *value.items.values()]
        elif type(value) is dict:
            todo += value.values()
        elif type(value) in (list, tuple):
            todo += value


def _storage(reference: Any) -> tuple[str, torch.dtype, int] | None:
    """Return key, type and number of elements of `('storage', torch.FloatStorage, key, device, elements, ...)`."""
    if not isinstance(reference, PersistentId) or type(reference.value) is not tuple or len(reference.value) < 5:
        return None
    kind, storage_class, key, _, elements = reference.value[:5]
    if kind != "storage" or not isinstance(storage_class, Name) or type(key) is not str or not _is_size(elements):
        return None
    dtype = DTYPES.get(storage_class.name) if storage_class.module.partition(".")[0] == "torch" else None
    return (key, dtype, elements) if dtype else None


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 48


def stored_tensor(call: Call) -> StoredTensor | None:
    """Return the tensor that a call rebuilds; None for any other call. Raises CheckpointError for impossible sizes."""
    function, args = str(call.function), call.args
    for _ in range(4):  # a parameter around a subclass of a tensor
        if type(args) is not tuple or not args:
            return None
        if function in WRAP and isinstance(args[0], Call):
            function, args = str(args[0].function), args[0].args
        elif function == SUBCLASS and len(args) > 2:
            function, args = str(args[0]), args[2]
    if function not in REBUILD or type(args) is not tuple or len(args) < 4:
        return None
    storage = _storage(args[0])
    if storage is None:
        return None
    shape, stride = (value.args[0] if isinstance(value, Call) and value.args else value for value in args[2:4])
    tensor = (args[1], shape, stride)
    if not _fits(*tensor, elements=storage[2]):
        raise CheckpointError("a tensor claims more values than the file stores; get the file from its author again")
    return StoredTensor(*storage, *tensor)


def _fits(offset: Any, shape: Any, stride: Any, elements: int) -> bool:
    """Return True if a view is inside its storage and not larger: a repeated view could claim any amount of memory."""
    if type(shape) is not tuple or type(stride) is not tuple or len(shape) != len(stride) or len(shape) > MAX_DIMENSIONS:
        return False
    if not all(map(_is_size, (offset, *shape, *stride))):
        return False
    if 0 in shape:
        return True
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    return math.prod(shape) <= elements and last < elements


class _Plain:
    """Conversion of an inert pickle's content to dicts with a StoredTensor for each tensor; everything else is dropped."""

    def __init__(self) -> None:
        self._done: dict[int, Any] = {}
        self._tensors = 0

    def convert(self, value: Any, depth: int = 0) -> Any:
        if depth > MAX_DEPTH or type(value) in (list, tuple):
            return None
        if id(value) in self._done:
            return self._done[id(value)]
        if isinstance(value, Call):
            return self._convert_call(value, depth)
        if type(value) is not dict:
            return value
        result: dict[str, Any] = {}
        self._done[id(value)] = result
        self._fill(result, value, depth)
        return result

    def _fill(self, result: dict[str, Any], items: Mapping[Any, Any], depth: int) -> None:
        for key, inner in items.items():
            if type(key) is str:
                result[key] = self.convert(inner, depth + 1)

    def _convert_call(self, call: Call, depth: int) -> Any:
        tensor = stored_tensor(call)
        if tensor is not None:
            self._count()
            return tensor
        result: dict[str, Any] = {}
        self._done[id(call)] = result
        if _module_parts(call):
            result |= self._module(call, "", depth)
        else:
            self._fill(result, call.items or _pairs(call), depth)
        return result

    def _module(self, call: Call, prefix: str, depth: int) -> dict[str, Any]:
        """Return the tensors of a pickled torch.nn.Module, under the names of its state dict."""
        self._count()  # modules too: a file may refer to one module in many places
        parts = _module_parts(call)
        found: dict[str, Any] = {}
        if not parts or depth > MAX_DEPTH:
            return found
        parameters, buffers, modules, hidden = parts
        for name, inner in [*parameters.items(), *((n, b) for n, b in buffers.items() if n not in hidden)]:
            if isinstance(inner, Call) and (tensor := stored_tensor(inner)):
                self._count()
                found[f"{prefix}{name}"] = tensor
        for name, inner in modules.items():
            if isinstance(inner, Call):
                found |= self._module(inner, f"{prefix}{name}.", depth + 1)
        return found

    def _count(self) -> None:
        self._tensors += 1
        if self._tensors > MAX_TENSORS:
            raise CheckpointError(f"it has more than {MAX_TENSORS:,} tensors or modules")


def _module_parts(call: Call) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], list[Any]] | tuple[()]:
    """Return parameters, buffers, sub-modules and buffers left out of state dicts; empty if the object is no module."""
    if type(call.state) is not dict or not {"_parameters", "_modules"} <= set(call.state):
        return ()
    parameters, buffers, modules = (_mapping(call.state.get(name)) for name in ("_parameters", "_buffers", "_modules"))
    hidden = call.state.get("_non_persistent_buffers_set")
    hidden = hidden.args[0] if isinstance(hidden, Call) and hidden.args else hidden
    return parameters, buffers, modules, hidden if type(hidden) is list else []


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Call):
        return value.items or _pairs(value)
    return value if type(value) is dict else {}


def _pairs(call: Call) -> dict[Any, Any]:
    """Return the items of `OrderedDict([(key, value), ...])`, as pickle protocols 0 and 1 write it, or of `dict(mapping)`."""
    first = call.args[0] if type(call.args) is tuple and call.args else None
    if type(first) is dict:
        return first
    if type(first) is not list:
        return {}
    pairs = [pair for pair in first if type(pair) in (list, tuple) and len(pair) == 2 and type(pair[0]) is str]
    return {pair[0]: pair[1] for pair in pairs}
