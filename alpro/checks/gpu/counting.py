"""Counts what a step asks of a GPU: operations, synchronisations, bytes copied and bytes held. Needs no GPU.

`PretendedGPU` is a context in which tensors can be moved to a device that reports itself as `cuda:0` and computes on the CPU.
The package's code takes its CUDA paths there, and each place at which the host would have to wait for a GPU is recorded:

- values read on the host: `.item()`, `bool()`, `.tolist()`, `.cpu()`;
- shapes that depend on values: `nonzero`, indexing with a mask;
- blocking copies to the device: `torch.tensor(..., device=)`, `.to(device)` without `non_blocking`, indexing with host tensors.

Operations on tensors of both devices, which CUDA refuses, raise RuntimeError.
"""

from __future__ import annotations

import gc
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

DEVICE = torch.device("cuda", 0)  # as which the pretended device reports itself
PACKAGE = Path(__file__).parents[2]
SCAN_EVERY = 16  # operations between two looks at the bytes held
_aten = torch.ops.aten
COPIES = {_aten._to_copy.default, _aten.copy_.default, _aten.clone.default}
INDEXING = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._index_put_impl_.default}
# Storages on the device and their bytes, by address. They are kept between two uses, as the package keeps some tensors too.
_STORAGES: dict[int, StorageWeakRef] = {}
_SIZES: dict[int, int] = {}
FACTORIES = {torch.tensor, torch.as_tensor, torch.Tensor.new_tensor}  # that copy values from the host


@dataclass
class Counts:
    """Counts so far. `places` has the source line of each synchronisation."""

    operations: int = 0  # on the device, without views: about one kernel each
    copied: int = 0  # bytes, in both directions
    places: Counter[str] = field(default_factory=Counter)
    held: int = 0  # bytes on the device when last looked at
    peak: int = 0  # most bytes on the device

    @property
    def synchronisations(self) -> int:
        """Number of synchronisations."""
        return sum(self.places.values())


class PretendedGPU:
    """A pretended GPU: use it as a context, and move models and batches to `DEVICE` inside."""

    def __init__(self) -> None:
        self.counts = Counts()
        self._storages, self._sizes = _STORAGES, _SIZES
        self._inside = False  # an operation of this class itself
        self._backward = False

    def __enter__(self) -> PretendedGPU:
        gc.collect()
        self.look()
        self.counts.peak = self.base = self.counts.held
        self._patches = _patched_torch()
        self._patches.__enter__()
        self._modes: tuple[Any, Any] = (_Functions(self), _Operations(self))
        for mode in self._modes:
            mode.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(*error)
        self._patches.__exit__(*error)

    def has(self, value: Any) -> bool:
        """Return True for a tensor on the device."""
        return isinstance(value, Tensor) and value.untyped_storage()._cdata in self._storages

    def add(self, value: Any) -> None:
        """Put the tensors of a nested value on the device; other values are left alone."""
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._storages:
                    self._storages[storage._cdata] = StorageWeakRef(storage)
                    self._sizes[storage._cdata] = storage.nbytes()

    def look(self) -> int:
        """Return the bytes on the device now, and forget what was freed."""
        for address in [address for address, storage in self._storages.items() if storage.expired()]:
            del self._storages[address], self._sizes[address]
        self.counts.held = sum(self._sizes.values())
        self.counts.peak = max(self.counts.peak, self.counts.held)
        return self.counts.held

    def to_device(self, tensor: Tensor, convert: Callable[[], Tensor], blocking: bool) -> Tensor:
        """Copy a tensor of the host to the device; `convert` returns the copy."""
        self.counts.copied += tensor.nbytes
        if blocking:
            self.wait("blocking copy to the device")
        with self.uncounted():
            copy = convert()
        self.add(copy)
        return copy

    def to_host(self, tensor: Tensor, convert: Callable[[], Any], blocking: bool = True) -> Any:
        """Copy a tensor of the device to the host."""
        self.counts.copied += tensor.nbytes
        if blocking:
            self.wait("read on the host")
        with self.uncounted():
            return convert()

    def wait(self, reason: str) -> None:
        """Record a synchronisation, with the line of the package that causes it."""
        frames = [frame for frame in traceback.extract_stack() if not _is_foreign(frame.filename)]
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "torch"
        self.counts.places[f"{place} {reason}"] += 1

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Do not count the operations inside, nor put their results on the device."""
        before, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = before

    @contextmanager
    def backward(self) -> Iterator[None]:
        """Put tensors that autograd makes, such as zeros for a missing gradient, on the device."""
        before, self._backward = self._backward, True
        try:
            yield
        finally:
            self._backward = before


def _is_foreign(file: str) -> bool:
    """Return True for source files that are not the caller's: those of torch and this one."""
    return "/torch/" in file or file == __file__ or file.startswith("<")


@contextmanager
def _patched_torch() -> Iterator[None]:
    """Replace what the CUDA paths need and a CPU cannot do."""
    autocast, event, name = torch.autocast, torch.cuda.Event, torch.cuda.get_device_name

    def autocast_on_cpu(device_type: str, dtype: torch.dtype | None = None, enabled: bool = True, **options: Any) -> Any:
        return autocast("cpu", dtype, enabled=enabled, **options)

    class Event:
        """An event on a device that has always finished."""

        def record(self, *stream: Any) -> None: ...
        def synchronize(self) -> None: ...

    torch.autocast, torch.cuda.Event = autocast_on_cpu, Event  # type: ignore[misc,assignment]
    torch.cuda.get_device_name = lambda device=None: "a pretended GPU"
    try:
        yield
    finally:
        torch.autocast, torch.cuda.Event, torch.cuda.get_device_name = autocast, event, name  # type: ignore[misc]


def _is_cuda(device: Any) -> bool:
    """Return True for a device, or the name of one, of type cuda."""
    return isinstance(device, torch.device | str) and torch.device(device).type == "cuda"


def _is_device(value: Any) -> bool:
    if isinstance(value, torch.device):
        return True
    if isinstance(value, str):
        with suppress(RuntimeError):
            torch.device(value)
            return True
    return False


class _Functions(TorchFunctionMode):
    """Sees the calls that name a device, and those that read values without an operation."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        name = getattr(func, "__name__", "")
        first: Any = args[0] if args else None
        if name == "__get__":
            return self._attribute(func, first, args, kwargs)
        if gpu._inside:
            return func(*args, **kwargs)
        if isinstance(first, Tensor) and name in ("to", "cuda", "cpu"):
            return self._moved(name, func, first, args, kwargs)
        if name in ("tolist", "numpy", "__array__") and gpu.has(first):
            return gpu.to_host(first, lambda: func(*args, **kwargs))
        if name == "backward":
            with gpu.backward():
                return func(*args, **kwargs)
        if func in FACTORIES and (_is_cuda(kwargs.get("device")) or (gpu.has(first) and name == "new_tensor")):
            return self._made_from_values(func, first, args, kwargs)
        named = _is_cuda(kwargs.get("device"))
        if named:
            kwargs["device"] = torch.device("cpu")
        result = func(*args, **kwargs)
        if named:
            gpu.add(result)
        return result

    def _attribute(self, func: Any, tensor: Any, args: Any, kwargs: Any) -> Any:
        value = func(*args, **kwargs)
        attribute = getattr(func.__self__, "__name__", "")
        if attribute in ("device", "is_cuda", "is_cpu") and self.gpu.has(tensor):
            return {"device": DEVICE, "is_cuda": True, "is_cpu": False}[attribute]
        return value

    def _made_from_values(self, func: Any, first: Any, args: Any, kwargs: Any) -> Tensor:
        gpu = self.gpu
        if gpu.has(first) and func is not torch.Tensor.new_tensor:
            return first  # as_tensor of a tensor that is there already
        if kwargs.get("device") is not None:
            kwargs["device"] = torch.device("cpu")
        with gpu.uncounted():
            made: Tensor = func(*args, **kwargs)
        return gpu.to_device(made, lambda: made, blocking=True)

    def _moved(self, name: str, func: Any, tensor: Tensor, args: Any, kwargs: Any) -> Any:
        """Do what `.to`, `.cuda` and `.cpu` do."""
        gpu, rest = self.gpu, list(args[1:])
        target = {"cuda": DEVICE, "cpu": torch.device("cpu")}.get(name, kwargs.pop("device", None))
        for position, value in enumerate(rest):
            if name == "to" and (_is_device(value) or isinstance(value, Tensor)):
                target = torch.device(value) if _is_device(value) else DEVICE if gpu.has(value) else torch.device("cpu")
                if isinstance(value, Tensor):
                    kwargs.setdefault("dtype", value.dtype)
                rest[position] = None
        blocking = not kwargs.pop("non_blocking", False)
        dtype = next((value for value in rest if isinstance(value, torch.dtype)), kwargs.get("dtype"))
        there = gpu.has(tensor)
        if target is None or there == _is_cuda(target):
            return tensor if dtype is None else torch.Tensor.to(tensor, dtype)

        def copy() -> Tensor:
            return torch.Tensor.to(tensor, "cpu", dtype, copy=True)

        return gpu.to_host(tensor, copy, blocking) if there else gpu.to_device(tensor, copy, blocking)


class _Operations(TorchDispatchMode):
    """Sees every operation, those of the backward pass included."""

    def __init__(self, gpu: PretendedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, kwargs or {}
        if gpu._inside:
            return func(*args, **kwargs)
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        there = [gpu.has(tensor) for tensor in tensors]
        if not any(there):
            result = func(*args, **kwargs)
            if gpu._backward:
                gpu.add(result)
            return result
        self._check(func, args, [tensor for tensor, is_there in zip(tensors, there, strict=True) if not is_there])
        if not func.is_view:
            gpu.counts.operations += 1
        result = func(*args, **kwargs)
        gpu.add(result)
        if gpu.counts.operations % SCAN_EVERY == 0:
            gpu.look()
        return result

    def _check(self, func: Any, args: Any, hosts: list[Tensor]) -> None:
        """Record the synchronisations of an operation on the device; `hosts` are its arguments on the host."""
        gpu = self.gpu
        if torch.Tag.data_dependent_output in func.tags or func is _aten.multinomial.default:  # which checks its weights
            gpu.wait("value read on the host")
        elif func in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
                gpu.wait("indexing with a mask")
            if any(not gpu.has(index) for index in indices):
                gpu.wait("index copied to the device")
            return
        elif torch.Tag.dynamic_output_shape in func.tags:
            gpu.wait("shape read on the host")
        if any(host.dim() > 0 for host in hosts):
            if func in COPIES:
                gpu.counts.copied += sum(host.nbytes for host in hosts)
                gpu.wait("blocking copy")
            else:
                raise RuntimeError(f"{func}: tensors of the host and of the device in one operation")
