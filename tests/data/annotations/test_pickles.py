"""A pickled table is converted to the rows that pandas reads, or refused; its code never runs."""

import builtins
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alpro.data.annotations.pickles import convert_pickle
from alpro.data.annotations.rows import read_rows
from alpro.errors import DataError

ROOT = Path(__file__).parents[3]
FRAME = pd.DataFrame(
    {
        "video_id": ["p/1", "p/2", "p/3"],
        "text": ['a "dog", running', "line\none\rtwo", None],
        "txt_len": [7, 3, 0],
        "score": [0.5, None, -2.0],
        "public": [True, False, True],
        "mixed": np.array(["é", None, "x"], dtype=object),
    }
)


def rows_of(frame):
    return [{str(name): None if pd.isna(cell) else cell for name, cell in row.items()} for row in frame.to_dict("records")]


def read(path):
    return [row for _, row in read_rows(path)]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("storage", ["pyarrow", "python"])
def test_frame_of_the_installed_pandas_is_converted(tmp_path, protocol, storage):
    with pd.option_context("mode.string_storage", storage):
        frames = [
            FRAME.astype({"video_id": "str", "text": "str"}),
            FRAME.astype({"text": "string"}).iloc[1:],
            FRAME.astype(object).set_index("txt_len"),
            pd.DataFrame(
                np.array([["a", "b"], ["c", "d"], ["e", "f"]], dtype=object)
            ),  # by rows, whereas blocks are by columns
            pd.DataFrame(np.arange(6, dtype=">i4").reshape(3, 2), columns=["x", "y"]),
        ]
        for frame in frames:
            (tmp_path / "a.pkl").write_bytes(pickle.dumps(frame, protocol))
            assert convert_pickle(tmp_path / "a.pkl", tmp_path / "a.parquet") == len(frame)
            assert read(tmp_path / "a.parquet") == rows_of(frame)


class _Made:
    """An object pickled as a call with a state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


def test_frame_of_an_old_pandas_is_converted(tmp_path):
    """Build a pickle as pandas up to 1.2 wrote it, with the old module names; the installed pandas is the oracle."""
    axes = [pd.Index(["video_id", "txt_len"], dtype=object), pd.RangeIndex(2)]
    texts, numbers = np.array([["p/1", "p/2"]], dtype=object), np.array([[7, 3]])
    blocks = [{"values": numbers, "mgr_locs": slice(1, 2, 1)}, {"values": texts, "mgr_locs": np.array([0])}]
    manager = pd.core.internals.managers.BlockManager
    state = axes, [], [], {"0.14.1": {"axes": axes, "blocks": blocks}}
    content = pickle.dumps(_Made(pd.DataFrame, (), {"_data": _Made(manager, (), state), "_typ": "dataframe"}), 2)
    # made by __new__, without arguments
    content, made = re.subn(rb"(BlockManager\nq.)\)R", rb"\1)" + pickle.NEWOBJ, content, flags=re.DOTALL)
    oracle = pickle.loads(content)
    for new, old in (
        (b"cpandas\nDataFrame\n", b"cpandas.core.frame\nDataFrame\n"),
        (b"cpandas\nIndex\n", b"cpandas.core.indexes.base\nIndex\n"),
        (b"cpandas\nRangeIndex\n", b"cpandas.core.indexes.range\nRangeIndex\n"),
        (b"cnumpy._core.", b"cnumpy.core."),
    ):
        assert new in content
        content = content.replace(new, old)
    (tmp_path / "a.pkl").write_bytes(content)
    convert_pickle(tmp_path / "a.pkl", tmp_path / "a.parquet")
    assert made == 1 and read(tmp_path / "a.parquet") == rows_of(oracle)
    assert rows_of(oracle) == [{"video_id": "p/1", "txt_len": 7}, {"video_id": "p/2", "txt_len": 3}]


def test_lists_require_parquet(tmp_path):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(FRAME))
    assert convert_pickle(tmp_path / "a.pkl", tmp_path / "a.csv") == 3
    assert [row["text"] for row in read(tmp_path / "a.csv")] == ['a "dog", running', "line\none\rtwo", ""]
    assert [row["txt_len"] for row in read(tmp_path / "a.csv")] == ["7", "3", "0"]
    rows = [{"image": "1.jpg", "caption": ["a dog", "a cat"]}, {"image": "2.jpg", "caption": ["a bird"]}]
    for content in (rows, {name: [row[name] for row in rows] for name in rows[0]}):
        (tmp_path / "b.pkl").write_bytes(pickle.dumps(content))
        with pytest.raises(DataError, match=r"b\.pkl: column 'caption' contains lists, .* write a \.parquet"):
            convert_pickle(tmp_path / "b.pkl", tmp_path / "b.csv")
        convert_pickle(tmp_path / "b.pkl", tmp_path / "b.parquet")
        assert read(tmp_path / "b.parquet") == rows
    assert not (tmp_path / "b.csv").exists()


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        (os.system, "posix.system"),
        (builtins.eval, "eval"),
        (pd.eval, "eval"),
        (pd.read_pickle, "read_pickle"),
        (getattr, "getattr"),
    ],
)
def test_pickle_with_other_calls_is_refused_without_running_them(tmp_path, monkeypatch, protocol, call, named):
    monkeypatch.chdir(tmp_path)
    arguments = {os.system: ("touch ran",), getattr: (Path, "touch"), pd.read_pickle: ("no.pkl",)}
    trap = _Made(call, arguments.get(call, ("open('ran', 'w')",)))
    for content in (trap, [{"video_id": "1", "text": trap}], FRAME.assign(mixed=[trap, 1, 2])):
        Path("a.pkl").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(DataError, match=rf"a\.pkl: refers to '.*{named}', .*none of its code was run"):
            convert_pickle("a.pkl", "a.csv")
    assert sorted(os.listdir()) == ["a.pkl"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a pickle of a plain table"),
        (b"a,b\n1,2\n", "not a pickle of a plain table"),
        (pickle.dumps(FRAME)[:-40], "not a pickle of a plain table"),
        (pickle.dumps("a text"), "it contains a str"),
        (pickle.dumps([]), "has no rows"),
        (pickle.dumps({"a": [1, 2], "b": [1]}), "differ in length"),
        (pickle.dumps([{"a": {"b": 1}}]), "row 1: a: a dict is neither a text nor a number"),
        (pickle.dumps(np.dtype("i8")), "it contains a dtype"),
        (pickle.dumps(pd.DataFrame({"a": np.array([1, 2])})).replace(b"i8", b"V8"), "type 'V8' is neither"),
        (pickle.dumps(pd.DataFrame({"a": np.array([1, 2])})).replace(b"K\x01K\x02\x86", b"K\x01K\x09\x86"), "cannot reshape"),
    ],
)
def test_damaged_table_is_refused_with_a_reason(tmp_path, content, words):
    (tmp_path / "a.pkl").write_bytes(content)
    with pytest.raises(DataError, match=words) as error:
        convert_pickle(tmp_path / "a.pkl", tmp_path / "a.csv")
    assert "\n" not in str(error.value) and not (tmp_path / "a.csv").exists()


def test_texts_of_a_wrong_length_are_refused(tmp_path):
    content = pickle.dumps(pd.DataFrame({"a": pd.array(["one", "two"], dtype="string[pyarrow]")}))
    offsets = np.array([0, 3, 6], dtype="<i8").tobytes()
    assert offsets in content
    (tmp_path / "a.pkl").write_bytes(content.replace(offsets, np.array([0, 3, 6000], dtype="<i8").tobytes()))
    with pytest.raises(DataError, match="not a pickle of a plain table"):
        convert_pickle(tmp_path / "a.pkl", tmp_path / "a.csv")


def test_command_converts_a_pickle(tmp_path):
    (tmp_path / "train.pkl").write_bytes(pickle.dumps(FRAME))
    done = subprocess.run(
        [sys.executable, "-m", "alpro", "data", "unpickle", "train.pkl", "train.csv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "train.csv: 3 rows\n"), done.stderr
