"""Converts a pickled table, as WebVid's official annotations are one, without running anything that stands in it.

A pickle is a program that calls what it names. Here the few names that a table of pandas needs stand for inert objects,
which only note what was to be done with them; any other name is refused. Neither pandas nor numpy restores anything:
the cells are read out of those notes.
"""

from __future__ import annotations

import csv
import io
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from alpro.errors import DataError
from alpro.files.atomic import atomic_write

Table = dict[str, list[Any]]  # column -> its cells
# what of pandas and numpy a table consists of, by all names that it has had
_NAMES = {
    "frame": "pandas.DataFrame pandas.core.frame.DataFrame",
    "manager": "pandas.core.internals.BlockManager pandas.core.internals.managers.BlockManager",
    "block": "pandas._libs.internals._unpickle_block",
    "new_index": "pandas.core.indexes.base._new_Index pandas.indexes.base._new_Index",
    "index": "pandas.Index pandas.core.indexes.base.Index pandas.indexes.base.Index pandas.core.index.Index "
    "pandas.core.indexes.numeric.Int64Index pandas.core.indexes.numeric.UInt64Index pandas.core.indexes.numeric.Float64Index "
    "pandas.indexes.numeric.Int64Index",
    "range": "pandas.RangeIndex pandas.core.indexes.range.RangeIndex pandas.indexes.range.RangeIndex",
    "array": "numpy.core.multiarray._reconstruct numpy._core.multiarray._reconstruct",
    "buffer": "numpy.core.numeric._frombuffer numpy._core.numeric._frombuffer",
    "scalar": "numpy.core.multiarray.scalar numpy._core.multiarray.scalar",
    "ndarray": "numpy.ndarray",
    "dtype": "numpy.dtype",
    "texts": "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked",
    "text_class": "pandas.arrays.StringArray pandas.core.arrays.string_.StringArray "
    "pandas.core.arrays.string_.StringArrayNumpySemantics",
    "text_dtype": "pandas.StringDtype pandas.core.arrays.string_.StringDtype",
    "arrow_texts": "pandas.arrays.ArrowStringArray pandas.core.arrays.string_arrow.ArrowStringArray "
    "pandas.core.arrays.string_arrow.ArrowStringArrayNumpySemantics",
    "arrow": "pyarrow.lib._restore_array",
    "arrow_type": "pyarrow.lib.type_for_alias",
    "arrow_buffer": "pyarrow.lib.py_buffer",
}


class _Inert:
    """What a name of the pickle stands for: it keeps its arguments and its state, and does nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Inert:
        made = super().__new__(cls)
        made.args, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _bytes(content: bytes | str = b"", encoding: str = "") -> bytes:
    """Protocol 2 writes bytes as text."""
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


_KNOWN: dict[str, Any] = {name: type(kind, (_Inert,), {}) for kind, names in _NAMES.items() for name in names.split()}
_KNOWN |= {f"{module}.slice": slice for module in ("builtins", "__builtin__")}
_KNOWN |= {name: _bytes for name in ("builtins.bytearray", "__builtin__.bytearray", "_codecs.encode")}
_KNOWN |= {name: None for name in ("pandas.NA", "pandas._libs.missing.NA")}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = f"{module}.{name}"
        if found not in _KNOWN:
            raise DataError(f"wants {found[:100]!r}, which no plain table needs; nothing of it was run")
        return _KNOWN[found]


def convert(source: str | Path, output: str | Path) -> int:
    """Write the rows of a pickled DataFrame, list of rows or mapping of columns as .csv or .parquet; returns their number.

    Cells are texts, numbers, truth values or nothing; in a .parquet also lists of these. Raises DataError for another
    ending, a pickle that names anything else, is broken or holds another thing than a table.
    """
    source, output = Path(source), Path(output)
    if output.suffix.lower() not in _WRITERS:
        raise DataError(f"{output}: name a {' or a '.join(_WRITERS)}")
    if not source.is_file():
        raise DataError(f"{source}: not found")
    try:
        table = _table(source)
        content = _WRITERS[output.suffix.lower()](table)
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    atomic_write(output, content)
    return len(next(iter(table.values())))


def _table(source: Path) -> Table:
    try:
        with source.open("rb") as file:
            found = _Unpickler(file).load()
        table = _columns(found)
    except (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError,
            RecursionError, TypeError, ValueError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"no pickle of a plain table ({reason})") from None
    if not table or not next(iter(table.values())):
        raise DataError("holds no rows")
    return {name: [_cell(name, row, cell) for row, cell in enumerate(cells, 1)] for name, cells in table.items()}


def _columns(found: Any) -> Table:
    if _is(found, "frame"):
        return _frame(found)
    if isinstance(found, Mapping):
        table = {str(name): list(_array(cells) if isinstance(cells, _Inert) else cells) for name, cells in found.items()}
    elif isinstance(found, Sequence) and all(isinstance(row, Mapping) for row in found):
        names = dict.fromkeys(name for row in found for name in row)
        table = {str(name): [row.get(name) for row in found] for name in names}
    else:
        raise ValueError(f"it holds {_called(found)}")
    if len({len(cells) for cells in table.values()}) > 1:
        raise ValueError("its columns are not of one length")
    return table


def _cell(name: str, row: int, cell: Any) -> Any:
    if _is(cell, "scalar"):
        return _number(*cell.args)
    if isinstance(cell, float) and cell != cell:  # what pandas writes for a cell that is empty
        return None
    if isinstance(cell, list):
        return [_cell(name, row, one) for one in cell]
    if cell is None or type(cell) in (str, int, float, bool):
        return cell
    raise DataError(f"row {row}: {name}: {_called(cell)} is no text and no number")


def _is(thing: Any, *kinds: str) -> bool:
    return isinstance(thing, _Inert) and type(thing).__name__ in kinds


def _called(thing: Any) -> str:
    return f"a {type(thing).__name__}"


# --- pandas -----------------------------------------------------------------------------------------------


def _frame(frame: Any) -> Table:
    """A DataFrame keeps its columns in blocks of one type, each of which says where its columns stand."""
    manager = frame.state["_mgr" if "_mgr" in frame.state else "_data"]
    if manager.args:
        blocks, axes = manager.args
        parts = [(block.args[0], block.args[1]) for block in blocks]
    else:  # before pandas 1.3
        state = manager.state[3]["0.14.1"]
        axes = state["axes"]
        parts = [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    names = [str(name) for name in _index(axes[0])]
    if len(set(names)) < len(names):
        raise ValueError(f"two of its columns have one name: {', '.join(names)}")
    found: Table = {}
    for values, places in parts:
        columns = _array(values)
        if not _is(values, "array", "buffer") or len(_shape(values)) == 1:
            columns = [columns]
        here = range(*places.indices(len(names))) if isinstance(places, slice) else _array(places)
        found |= zip((names[place] for place in here), columns, strict=True)
    table = {name: found[name] for name in names}
    rows = len(_index(axes[1]))
    if any(len(cells) != rows for cells in table.values()):
        raise ValueError(f"its columns are not of {rows} rows")
    return table


def _index(index: Any) -> Sequence[Any]:
    _, given = index.args
    return range(given["start"], given["stop"], given["step"]) if "data" not in given else _array(given["data"])


def _array(thing: Any) -> list[Any]:
    """The values of an array, those of two dimensions as lists of lists."""
    if _is(thing, "texts"):
        return _array_of_numpy(next(part for part in thing.state if _is(part, "array", "buffer")))
    if _is(thing, "arrow_texts"):
        return _array_of_arrow(thing.state["_pa_array"])
    return _array_of_numpy(thing)


# --- numpy and pyarrow ------------------------------------------------------------------------------------


def _shape(thing: Any) -> tuple[int, ...]:
    return tuple(thing.args[2] if _is(thing, "buffer") else thing.state[1])


def _array_of_numpy(thing: Any) -> list[Any]:
    import numpy as np

    if _is(thing, "buffer"):
        content, kind, _, order = thing.args
    elif _is(thing, "array"):
        _, _, kind, by_columns, content = thing.state
        order = "F" if by_columns else "C"
    else:
        raise ValueError(f"{_called(thing)} in place of an array")
    shape = _shape(thing)
    if kind.args[0] not in ("O", "O4", "O8"):
        return np.frombuffer(content, _plain(kind)).reshape(shape, order=order).tolist()
    cells = np.empty(len(content), dtype=object)  # a list, in the order of C whatever the array's was
    for place, cell in enumerate(content):
        cells[place] = cell
    return cells.reshape(shape).tolist()


def _number(kind: Any, content: bytes) -> Any:
    import numpy as np

    return np.frombuffer(content, _plain(kind)).item()


def _plain(kind: Any) -> str:
    """A number's type, for numpy; anything of more parts could be made to read past the end."""
    name, order = kind.args[0], kind.state[1] if kind.state else "="
    if not re.fullmatch("b1|[iu][1248]|f[248]", name) or order not in ("<", ">", "=", "|"):
        raise ValueError(f"a column of type {name!r} is neither text nor number")
    return f"{order}{name}"


def _array_of_arrow(thing: Any) -> list[Any]:
    import pyarrow as pa

    kind, length, nulls, offset, buffers, *_ = thing.args[0]
    types = {"string": pa.string(), "large_string": pa.large_string()}
    parts = [None if buffer is None else pa.py_buffer(bytes(buffer.args[0])) for buffer in buffers]
    array = pa.Array.from_buffers(types[kind.args[0]], length, parts, nulls, offset)
    array.validate(full=True)  # the sizes and offsets are the pickle's word
    return array.to_pylist()


# --- writing ----------------------------------------------------------------------------------------------


def _csv(table: Table) -> str:
    if listed := next((name for name, cells in table.items() if any(isinstance(cell, list) for cell in cells)), None):
        raise DataError(f"column {listed!r} holds lists, for which a .csv has no form; name a .parquet")
    text = io.StringIO()
    lines = csv.writer(text)  # its own \r\n: with another line end a cell's \r would stand without quotes
    lines.writerow(table)
    lines.writerows(zip(*table.values(), strict=True))
    return text.getvalue()


def _parquet(table: Table) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    try:
        pq.write_table(pa.table(table), sink, compression="zstd")
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"its cells are of several types ({' '.join(str(error).split())}); name a .csv") from None
    return sink.getvalue().to_pybytes()


_WRITERS: dict[str, Callable[[Table], bytes | str]] = {".csv": _csv, ".parquet": _parquet}
