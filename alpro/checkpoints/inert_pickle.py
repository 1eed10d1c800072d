"""Reads a pickle as data: a machine that imports nothing and calls nothing.

A pickle is a program that names classes and functions and calls them. Here a name becomes a `Name` and a call a `Call`,
which store what the pickle says and do nothing. `pickletools`, from the standard library, decodes the opcodes.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alpro.errors import CheckpointError
from alpro.files.names import brief

MAX_BYTES = 128 << 20  # of one pickle, without the tensors' values; ALPRO's is 0.3 MB
MAX_OPCODES = 5_000_000
PLAIN = (str, int, float, bool, bytes, type(None))  # key types whose hash takes no time that a file controls


@dataclass(frozen=True, slots=True)
class Name:
    """A class or function that the pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Call:
    """A call or an object that the pickle describes: its function or class, arguments, state, and added items."""

    function: Any
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    entries: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PersistentId:
    """A reference to something outside of the pickle, such as the values of a tensor."""

    value: Any


@dataclass(frozen=True, slots=True)
class Pickle:
    """Content of a pickle, every class and function that it names, and if a mapping or set has tuples of tuples as keys."""

    content: Any
    names: set[Name]
    nested_keys: bool


def read_pickle(source: io.BytesIO) -> Pickle:
    """Read one pickle up to its end.

    Lists, tuples and dicts keep their type, sets become lists; items with other keys than PLAIN are left out. Raises
    CheckpointError if it is damaged, uses an extension registry, or exceeds MAX_BYTES or MAX_OPCODES.
    """
    machine, start = _Machine(), source.tell()
    try:
        for count, (opcode, argument, position) in enumerate(pickletools.genops(source)):
            if count > MAX_OPCODES or (position or 0) - start > MAX_BYTES:
                raise CheckpointError("its pickle is too large for a checkpoint")
            if opcode.name == "STOP":
                return Pickle(machine.pop(), machine.names, machine.nested_keys)
            machine.run(opcode.name, argument)
    except (ValueError, LookupError, TypeError, AttributeError, MemoryError, RecursionError, OverflowError) as error:
        reason = brief(" ".join(str(error).split()), 100) or type(error).__name__
        raise CheckpointError(f"its pickle is damaged ({reason})") from None
    raise CheckpointError("its pickle is damaged (no end)")


class _Machine:
    """The stack and the memo of a pickle in progress."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.names: set[Name] = set()
        self.nested_keys = False  # their hash may take forever

    def run(self, opcode: str, argument: Any) -> None:
        if opcode in _LITERALS:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode]())
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        elif opcode not in _IGNORED:
            raise ValueError(f"{opcode} is not used in checkpoints")

    def pop(self) -> Any:
        if self.marks and self.marks[-1] >= len(self.stack):
            raise ValueError("a mark in the wrong place")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def name(self, module: Any, name: Any) -> Name:
        if type(module) is not str or type(name) is not str:
            raise ValueError("a name that is no text")
        self.names.add(found := Name(module, name))
        return found

    # --- opcodes: each takes the decoded argument ---

    def global_(self, argument: str) -> None:
        self.stack.append(self.name(*argument.split(" ", 1)))

    def stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(self.name(module, name))

    def call(self, _: Any) -> None:
        args = self.pop()
        self.stack.append(Call(self.pop(), args))

    def call_with_names(self, _: Any) -> None:
        names, args = self.pop(), self.pop()
        self.stack.append(Call(self.pop(), args, items=dict(_items(names))))

    def call_to_mark(self, argument: str | None) -> None:
        values = self.pop_to_mark()
        function = self.name(*argument.split(" ", 1)) if argument is not None else values.pop(0)
        self.stack.append(Call(function, tuple(values)))

    def build(self, _: Any) -> None:
        state, built = self.pop(), self.stack[-1]
        if isinstance(built, Call):
            built.state = state

    def persistent_id(self, argument: str | None) -> None:
        self.stack.append(PersistentId(self.pop() if argument is None else argument))

    def set_items(self, keys_and_values: list[Any]) -> None:
        target = self.stack[-1]
        items = target.items if isinstance(target, Call) else target
        if type(items) is not dict or len(keys_and_values) % 2:
            raise ValueError("items for an object that has none")
        for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
            if type(key) in PLAIN:
                items[key] = value
            self.check_key(key)

    def check_key(self, key: Any) -> None:
        self.nested_keys |= type(key) is tuple and any(type(part) is tuple for part in key)

    def add(self, values: list[Any]) -> None:
        for value in values:
            self.check_key(value)
        self.extend(values)

    def frozen_set(self, values: list[Any]) -> None:
        self.append_list([])
        self.add(values)

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Call) else target
        if type(entries) is not list:
            raise ValueError("entries for an object that has none")
        entries.extend(values)

    def append_list(self, values: list[Any]) -> None:
        self.stack.append(values)

    def append_tuple(self, count: int) -> None:
        self.stack.append(tuple(reversed([self.pop() for _ in range(count)])))

    def append_dict(self, keys_and_values: list[Any]) -> None:
        self.stack.append({})
        self.set_items(keys_and_values)

    def put(self, position: int) -> None:
        self.memo[position] = self.stack[-1]

    def discard(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()


def _items(value: Any) -> Mapping[Any, Any]:
    if type(value) is not dict:
        raise ValueError("named arguments that are no mapping")
    return value


_LITERALS = frozenset(
    (
        "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES",
        "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT",
        "BINFLOAT",
    )
)  # fmt: skip
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict, "EMPTY_SET": list,
}  # fmt: skip
_IGNORED = frozenset(("PROTO", "FRAME"))
_ACTIONS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": lambda machine, _: machine.discard(),
    "POP_MARK": lambda machine, _: machine.pop_to_mark(),
    "DUP": lambda machine, _: machine.stack.append(machine.stack[-1]),
    "APPEND": lambda machine, _: machine.extend([machine.pop()]),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add(machine.pop_to_mark()),
    "LIST": lambda machine, _: machine.append_list(machine.pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.frozen_set(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.append_list(tuple(machine.pop_to_mark())),  # type: ignore[arg-type]
    "TUPLE1": lambda machine, _: machine.append_tuple(1),
    "TUPLE2": lambda machine, _: machine.append_tuple(2),
    "TUPLE3": lambda machine, _: machine.append_tuple(3),
    "DICT": lambda machine, _: machine.append_dict(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "GET": lambda machine, position: machine.stack.append(machine.memo[position]),
    "PUT": _Machine.put,
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.call,
    "NEWOBJ": _Machine.call,
    "NEWOBJ_EX": _Machine.call_with_names,
    "INST": _Machine.call_to_mark,
    "OBJ": _Machine.call_to_mark,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent_id,
    "BINPERSID": _Machine.persistent_id,
}
_ACTIONS |= {name: _ACTIONS["GET"] for name in ("BINGET", "LONG_BINGET")}
_ACTIONS |= {name: _ACTIONS["PUT"] for name in ("BINPUT", "LONG_BINPUT")}
