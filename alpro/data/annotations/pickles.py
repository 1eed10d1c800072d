"""Converts a pickled table, such as WebVid's official annotations, without running code from the pickle.

A pickle is a program that calls the functions it names. The few names that a pandas table needs are replaced by inert
objects, which only store their arguments; any other name is refused. Neither pandas nor numpy restores anything: the
cells are read from the stored arguments.
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
# kind of object in a pickled table -> all names that pandas, numpy and pyarrow have given it
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
    """Replacement of a name in the pickle: stores its arguments and its state, and does nothing."""

    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any) -> _Inert:
        inert = super().__new__(cls)
        inert.args, inert.state = args, None
        return inert

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _bytes(content: bytes | str = b"", encoding: str = "") -> bytes:
    """Return bytes. Replaces `bytearray` and `_codecs.encode`; pickle protocol 2 stores bytes as Latin-1 text."""
    return content.encode("latin1") if isinstance(content, str) else bytes(memoryview(content))


_ALLOWED: dict[str, Any] = {name: type(kind, (_Inert,), {}) for kind, names in _NAMES.items() for name in names.split()}
_ALLOWED |= {f"{module}.slice": slice for module in ("builtins", "__builtin__")}
_ALLOWED |= {name: _bytes for name in ("builtins.bytearray", "__builtin__.bytearray", "_codecs.encode")}
_ALLOWED |= {name: None for name in ("pandas.NA", "pandas._libs.missing.NA")}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in _ALLOWED:
            raise DataError(f"refers to {full_name[:100]!r}, which a plain table does not need; none of its code was run")
        return _ALLOWED[full_name]


def convert_pickle(source: str | Path, output: str | Path) -> int:
    """Convert a pickled table to .csv or .parquet and return the number of rows.

    The table may be a DataFrame, a list of rows or a mapping of columns. Cells may be strings, numbers, booleans or empty;
    .parquet also supports lists of these. Raises DataError for another file
    extension, and for a pickle that is damaged, refers to anything else, or is not a table.
    """
    source, output = Path(source), Path(output)
    if output.suffix.lower() not in _WRITERS:
        raise DataError(f"{output}: the output must be a {' or '.join(_WRITERS)} file")
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
            content = _Unpickler(file).load()
        table = _columns(content)
    except (pickle.UnpicklingError, ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError,
            RecursionError, TypeError, ValueError) as error:  # fmt: skip
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise DataError(f"not a pickle of a plain table ({reason})") from None
    if not table or not next(iter(table.values())):
        raise DataError("has no rows")
    return {name: [_cell(name, row, cell) for row, cell in enumerate(cells, 1)] for name, cells in table.items()}


def _columns(content: Any) -> Table:
    if _is_kind(content, "frame"):
        return _frame_columns(content)
    if isinstance(content, Mapping):
        table = {
            str(name): list(_array_values(cells) if isinstance(cells, _Inert) else cells) for name, cells in content.items()
        }
    elif isinstance(content, Sequence) and all(isinstance(row, Mapping) for row in content):
        names = dict.fromkeys(name for row in content for name in row)
        table = {str(name): [row.get(name) for row in content] for name in names}
    else:
        raise ValueError(f"it contains {_type_name(content)}")
    if len({len(cells) for cells in table.values()}) > 1:
        raise ValueError("its columns differ in length")
    return table


def _cell(name: str, row: int, cell: Any) -> Any:
    if _is_kind(cell, "scalar"):
        return _number(*cell.args)
    if isinstance(cell, float) and cell != cell:  # NaN: how pandas writes an empty cell
        return None
    if isinstance(cell, list):
        return [_cell(name, row, item) for item in cell]
    if cell is None or type(cell) in (str, int, float, bool):
        return cell
    raise DataError(f"row {row}: {name}: {_type_name(cell)} is neither a text nor a number")


def _is_kind(obj: Any, *kinds: str) -> bool:
    return isinstance(obj, _Inert) and type(obj).__name__ in kinds


def _type_name(obj: Any) -> str:
    return f"a {type(obj).__name__}"


# --- pandas -----------------------------------------------------------------------------------------------


def _frame_columns(frame: Any) -> Table:
    """Return a DataFrame's columns. pandas stores columns of one dtype together in a block, with their positions."""
    manager = frame.state["_mgr" if "_mgr" in frame.state else "_data"]
    if manager.args:
        blocks, axes = manager.args
        block_data = [(block.args[0], block.args[1]) for block in blocks]
    else:  # before pandas 1.3
        state = manager.state[3]["0.14.1"]
        axes = state["axes"]
        block_data = [(block["values"], block["mgr_locs"]) for block in state["blocks"]]
    names = [str(name) for name in _index_values(axes[0])]
    if len(set(names)) < len(names):
        raise ValueError(f"two of its columns have the same name: {', '.join(names)}")
    columns_by_name: Table = {}
    for values, positions in block_data:
        columns = _array_values(values)
        if not _is_kind(values, "array", "buffer") or len(_shape(values)) == 1:
            columns = [columns]
        indices = range(*positions.indices(len(names))) if isinstance(positions, slice) else _array_values(positions)
        columns_by_name |= zip((names[i] for i in indices), columns, strict=True)
    table = {name: columns_by_name[name] for name in names}
    rows = len(_index_values(axes[1]))
    if any(len(cells) != rows for cells in table.values()):
        raise ValueError(f"its columns do not have {rows} rows each")
    return table


def _index_values(index: Any) -> Sequence[Any]:
    _, arguments = index.args
    if "data" in arguments:
        return _array_values(arguments["data"])
    return range(arguments["start"], arguments["stop"], arguments["step"])


def _array_values(obj: Any) -> list[Any]:
    """Return the values of an array; two dimensions become a list of lists."""
    if _is_kind(obj, "texts"):
        return _numpy_array(next(item for item in obj.state if _is_kind(item, "array", "buffer")))
    if _is_kind(obj, "arrow_texts"):
        return _arrow_array(obj.state["_pa_array"])
    return _numpy_array(obj)


# --- numpy and pyarrow ------------------------------------------------------------------------------------


def _shape(obj: Any) -> tuple[int, ...]:
    return tuple(obj.args[2] if _is_kind(obj, "buffer") else obj.state[1])


def _numpy_array(obj: Any) -> list[Any]:
    import numpy as np

    if _is_kind(obj, "buffer"):
        content, dtype, _, order = obj.args
    elif _is_kind(obj, "array"):
        _, _, dtype, by_columns, content = obj.state
        order = "F" if by_columns else "C"
    else:
        raise ValueError(f"{_type_name(obj)} instead of an array")
    shape = _shape(obj)
    if dtype.args[0] not in ("O", "O4", "O8"):
        return np.frombuffer(content, _numpy_type(dtype)).reshape(shape, order=order).tolist()
    # object arrays are pickled as a list in C order, even if the array is in Fortran order
    cells = np.empty(len(content), dtype=object)
    for i, cell in enumerate(content):
        cells[i] = cell
    return cells.reshape(shape).tolist()


def _number(dtype: Any, content: bytes) -> Any:
    import numpy as np

    return np.frombuffer(content, _numpy_type(dtype)).item()


def _numpy_type(dtype: Any) -> str:
    """Return numpy's name of a number type. Structured types are refused: they could be crafted to read out of bounds."""
    name, order = dtype.args[0], dtype.state[1] if dtype.state else "="
    if not re.fullmatch("b1|[iu][1248]|f[248]", name) or order not in ("<", ">", "=", "|"):
        raise ValueError(f"a column of type {name!r} is neither text nor number")
    return f"{order}{name}"


def _arrow_array(obj: Any) -> list[Any]:
    import pyarrow as pa

    arrow_type, length, nulls, offset, buffers, *_ = obj.args[0]
    types = {"string": pa.string(), "large_string": pa.large_string()}
    arrow_buffers = [None if buffer is None else pa.py_buffer(bytes(buffer.args[0])) for buffer in buffers]
    array = pa.Array.from_buffers(types[arrow_type.args[0]], length, arrow_buffers, nulls, offset)
    array.validate(full=True)  # sizes and offsets come from the pickle and may be wrong
    return array.to_pylist()


# --- writing ----------------------------------------------------------------------------------------------


def _csv(table: Table) -> str:
    if listed := next((name for name, cells in table.items() if any(isinstance(cell, list) for cell in cells)), None):
        raise DataError(f"column {listed!r} contains lists, which a .csv cannot store; write a .parquet file")
    text = io.StringIO()
    # keep the default line end \r\n: with another one, csv would not quote a cell that contains \r
    lines = csv.writer(text)
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
        raise DataError(f"a column mixes types ({' '.join(str(error).split())}); write a .csv file") from None
    return sink.getvalue().to_pybytes()


_WRITERS: dict[str, Callable[[Table], bytes | str]] = {".csv": _csv, ".parquet": _parquet}
