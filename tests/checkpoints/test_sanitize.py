"""`alpro weights import --sanitize` reads tensors and executes nothing, whatever the file says."""

from __future__ import annotations

import argparse
import copyreg
import io
import os
import pickle
import struct
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from alpro.checkpoints.files import load_checkpoint
from alpro.checkpoints.foreign import open_weights
from alpro.checkpoints.inert_pickle import read_pickle
from alpro.checkpoints.inert_tensors import read_inert, scan
from alpro.cli.main import app
from alpro.errors import CheckpointError

WEIGHT = torch.arange(6.0).view(2, 3)


class Touches:
    """Pickles as a call of os.system that makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


class Nested(Touches):
    """Pickles as eval of a string, inside of another call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (_Evaluated(self.marker),)


class _Evaluated(Touches):
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (f"[open({str(self.marker)!r}, 'w')]",)


class RestoresState(Touches):
    """Runs its code when its state is restored."""

    def __reduce__(self) -> tuple[Any, ...]:
        return object.__new__, (RestoresState,), {"marker": self.marker}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state["marker"].touch()


class CallsItsItems(dict):
    """A mapping that runs its code when items are set."""

    def __setitem__(self, key: Any, value: Any) -> None:
        Path(value).touch()


def opcodes(text: str) -> bytes:
    """Return a pickle of protocol 0, without the end."""
    return text.encode("latin-1")


def raw(marker: Path) -> dict[str, bytes]:
    """Return pickles, written by hand, each of which makes a file when it is loaded."""
    touch = f"touch '{marker}'"
    name = f"V{touch}\n"
    return {
        "GLOBAL REDUCE": opcodes(f"cos\nsystem\n({name}tR."),
        "STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + opcodes(f"({name}tR."),
        "INST": opcodes(f"({name}ios\nsystem\n."),
        "OBJ": opcodes(f"(cos\nsystem\n{name}o."),
        "NEWOBJ": opcodes(f"csubprocess\nPopen\n((Vtouch\nV{marker}\nlt\x81."),
        "BUILD of a class": opcodes(
            f"ctests.checkpoints.test_sanitize\nRestoresState\n)\x81(Vmarker\ncpathlib\nPath\n(V{marker}\ntRdb."
        ),
        "memo and POP": opcodes(f"cos\nsystem\np0\n0g0\n({name}tR."),
        "persistent id": opcodes(f"(Vstorage\ncos\nsystem\n({name}tRtQ."),
    }


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "ran"


def saved(content: Any, path: Path, zipped: bool = True) -> Path:
    """Save with torch in one of its two formats."""
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def with_pickle(path: Path, data: bytes, **entries: bytes) -> Path:
    """Write a zip like torch's around a pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/"), content)
    return path


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kind", [Touches, Nested, RestoresState])
def test_tensors_are_read_and_code_does_not_run(tmp_path, marker, kind, zipped):
    path = saved({"model": {"visual_encoder.a": WEIGHT}, "x": kind(marker)}, tmp_path / "x.pt", zipped)
    state, notes = open_weights(path, sanitize=True)
    assert state["visual_encoder.a"].equal(WEIGHT) and not marker.exists()
    assert "read as data; not executed: " in notes[0]
    torch.load(path, weights_only=False)  # the payload of this test, which can run: otherwise it proves nothing
    assert marker.exists()


@pytest.mark.parametrize("name", sorted(raw(Path("x"))))
@pytest.mark.parametrize("way", ["bare", "zip"])
def test_opcodes_that_call_do_nothing(tmp_path, marker, name, way):
    data = raw(marker)[name]
    path = tmp_path / "x.pt"
    if way == "bare":
        path.write_bytes(data)
    else:
        with_pickle(path, data)
    for sanitize in (True, False):
        with pytest.raises(CheckpointError) as caught:
            open_weights(path, sanitize)
        assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_hand_written_pickles_would_have_run(tmp_path, marker):
    for name in ("GLOBAL REDUCE", "STACK_GLOBAL", "INST", "OBJ", "BUILD of a class", "memo and POP"):
        pickle.loads(raw(marker)[name])
        assert marker.exists(), name
        marker.unlink()


@pytest.mark.parametrize("code", [b"\x82\x07", b"\x83\x07\x00", b"\x84\x07\x00\x00\x00"])
def test_extension_opcodes_are_refused_and_leave_no_trace(tmp_path, code):
    copyreg.add_extension("os", "system", 7)
    try:
        with pytest.raises(CheckpointError, match=r"EXT. is not used in checkpoints"):
            read_pickle(io.BytesIO(b"\x80\x02" + code + b"."))
        assert 7 not in getattr(copyreg, "_extension_cache", {})
    finally:
        copyreg.remove_extension("os", "system", 7)


def test_named_modules_are_not_imported(tmp_path):
    (tmp_path / "unwanted_module.py").write_text("raise SystemExit('imported')")
    sys.path.insert(0, str(tmp_path))
    try:
        found = read_pickle(io.BytesIO(b"cunwanted_module\nThing\n(tR."))
    finally:
        sys.path.remove(str(tmp_path))
    assert "unwanted_module" not in sys.modules
    assert [str(name) for name in found.names] == ["unwanted_module.Thing"]


def test_refusal_names_the_class_and_the_way_out(tmp_path):
    path = saved({"model": {"a": WEIGHT}, "args": argparse.Namespace(lr=1)}, tmp_path / "my file.pt")
    with pytest.raises(CheckpointError) as caught:
        open_weights(path)
    message = str(caught.value)
    assert "argparse.Namespace" in message and "nothing was executed" in message
    assert f"alpro weights import '{path}' --output FOLDER --sanitize" in message and "\n" not in message


def test_command_imports_what_it_refused(small, tmp_path):
    model = small("retrieval", seed=1, config=small("retrieval").config.model_copy(update={"width": 128, "heads": 2}))
    path = saved(
        {"model": {f"module.{k}": v for k, v in model.state_dict().items()}, "args": argparse.Namespace()}, tmp_path / "x.pt"
    )
    run, out = CliRunner().invoke, tmp_path / "own"
    refused = run(app, ["weights", "import", str(path), "--output", str(out)])
    assert isinstance(refused.exception, CheckpointError) and not out.exists()
    done = run(app, ["weights", "import", str(path), "--output", str(out), "--sanitize"])
    assert done.exit_code == 0, done.output
    assert "not executed: argparse.Namespace" in done.output and "under model" in done.output and "'module.'" in done.output
    state = load_checkpoint(out)[0]
    assert all(state[key].equal(tensor) for key, tensor in model.state_dict().items())


@pytest.mark.parametrize("zipped", [True, False])
def test_every_type_view_and_tied_tensor_is_read_as_torch_reads_it(tmp_path, zipped):
    base = torch.randn(4, 6)
    content = {
        "half": base.half(), "bf16": base.bfloat16(), "double": base.double(), "int": torch.arange(5),
        "bool": torch.tensor([True, False]), "view": base[1:3, 2:5], "transposed": base.t(), "base": base,
        "parameter": nn.Parameter(base), "empty": torch.empty(0, 3), "scalar": torch.tensor(3.0),
        "byte": torch.zeros(3, dtype=torch.uint8),
    }  # fmt: skip
    path = saved(content, tmp_path / "x.pt", zipped)
    file, expected = read_inert(path), torch.load(path, weights_only=True)
    assert file.foreign == [] and list(file.content) == list(expected)
    for name, tensor in file.content.items():
        loaded = file.load(tensor)
        assert loaded.dtype == expected[name].dtype and loaded.equal(expected[name]), name


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_pickled_module_gives_its_state_dict(tmp_path, protocol):
    """A whole model saved with torch.save, which only the code of its class could open."""
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.BatchNorm1d(2)))
    model.register_buffer("position_ids", torch.arange(3), persistent=False)
    torch.save({"model": model}, tmp_path / "x.pt", pickle_protocol=protocol)
    state, notes = open_weights(tmp_path / "x.pt", sanitize=True)
    assert state.keys() == model.state_dict().keys()
    assert all(
        state[key].equal(tensor.float() if tensor.is_floating_point() else tensor) for key, tensor in model.state_dict().items()
    )
    assert "torch.nn.modules.linear.Linear" in notes[0]


@pytest.mark.parametrize("name", ["/etc/data.pkl", "../../data.pkl", "/tmp/../data.pkl"])
def test_paths_in_a_zip_are_only_names(tmp_path, name):
    saved({"a": WEIGHT}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as source, zipfile.ZipFile(tmp_path / "y.pt", "w") as target:
        for entry in source.namelist():
            target.writestr(name.removesuffix("data.pkl") + entry.partition("/")[2], source.read(entry))
    before = sorted(tmp_path.iterdir())
    state, _ = open_weights(tmp_path / "y.pt", sanitize=True)
    assert state["a"].equal(WEIGHT) and sorted(tmp_path.iterdir()) == before


def test_storage_key_cannot_leave_the_zip(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"x" * 24)
    saved({"a": WEIGHT}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        data = archive.read(f"{folder}/data.pkl")
    key = b"X" + struct.pack("<I", 1) + b"0"
    path_as_key = f"../../../../{secret}".encode()
    assert key in data
    with_pickle(tmp_path / "y.pt", data.replace(key, b"X" + struct.pack("<I", len(path_as_key)) + path_as_key))
    with pytest.raises(CheckpointError, match="values of a tensor are missing"):
        open_weights(tmp_path / "y.pt", sanitize=True)


def rebuild(size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0, elements: int = 1) -> bytes:
    """Return a pickle of a tensor with these sizes and strides in a storage of floats."""

    class Persistent(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", elements) if value == "here" else None

    class Rebuild:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, ("here", offset, size, stride, False, {})

    data = io.BytesIO()
    Persistent(data, protocol=2).dump({"a": Rebuild()})
    return data.getvalue()


@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((1 << 40,), (0,), 0),
        ((1 << 20, 1 << 20), (0, 0), 0),
        ((2,), (1,), 0),
        ((1,), (1,), 1),
        ((1,), (1,), -1),
        ((-1,), (1,), 0),
    ],
)
@pytest.mark.parametrize("sanitize", [True, False])
def test_tensor_larger_than_its_values_is_refused(tmp_path, size, stride, offset, sanitize):
    path = with_pickle(tmp_path / "x.pt", rebuild(size, stride, offset), a__data__0=b"\0\0\0\0", a__version=b"3\n")
    with pytest.raises(CheckpointError) as caught:
        open_weights(path, sanitize)
    assert not sanitize or "claims more values than the file stores" in str(caught.value)


def billion_laughs(as_key: bool) -> bytes:
    """Return a pickle of tuples nested 60 times, each twice in the next: 2^60 values in 300 bytes."""
    start = b"}" if as_key else b"]"
    laughs = b"K\x01K\x02\x86" + b"".join(b"q" + bytes([n]) + b"h" + bytes([n]) + b"\x86" for n in range(60))
    return b"\x80\x02" + start + laughs + (b"K\x01s." if as_key else b"a.")


@pytest.mark.parametrize("sanitize", [True, False])
@pytest.mark.parametrize("as_key", [True, False])
def test_pickle_bomb_ends_soon(tmp_path, as_key, sanitize):
    """The hash of a tuple that is a key would take years."""
    start = time.process_time()
    with pytest.raises(CheckpointError):
        open_weights(with_pickle(tmp_path / "x.pt", billion_laughs(as_key)), sanitize)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("sanitize", [True, False])
@pytest.mark.parametrize("start", [billion_laughs(as_key=True), b"PK\n0" + billion_laughs(as_key=True)])
def test_pickle_with_a_zip_at_its_end_is_refused(tmp_path, start, sanitize):
    """torch reads the pickle, and the zip is harmless: https://bugs.python.org/issue28494."""
    saved({"a": WEIGHT}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(start + (tmp_path / "x.pt").read_bytes())
    assert zipfile.is_zipfile(tmp_path / "y.pt")
    with pytest.raises(CheckpointError, match="a zip at its end"):
        open_weights(tmp_path / "y.pt", sanitize)
    assert scan(tmp_path / "y.pt")[1], "the keys of the pickle are checked, as torch would open it"


NASTY = "\x1b[2J\nalpro: done\u2028" + "x" * 1000


@pytest.mark.parametrize("sanitize", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        {"model": {NASTY: torch.tensor(float("nan"))}},
        {NASTY: torch.zeros(1).to_sparse()},
        {"_orig_mod." + NASTY: WEIGHT, NASTY: WEIGHT},
        {NASTY: WEIGHT},
    ],
)
def test_names_in_a_file_are_brief_and_printable_in_messages(tmp_path, content, sanitize):
    saved(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError) as caught:
        open_weights(tmp_path / "x.pt", sanitize)
        load_checkpoint(tmp_path / "x.pt", sanitize)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600, str(caught.value)


def test_names_in_a_report_are_brief_and_printable(tmp_path):
    classes = b"".join(b"\x8c\x05mod\x1b[\x8c" + bytes([4]) + f"c{n:03}".encode() + b"\x930" for n in range(300))
    saved({"visual_encoder.a": WEIGHT, NASTY: 1}, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        data = archive.read("x/data.pkl")
        values = archive.read("x/data/0")
    with_pickle(tmp_path / "y.pt", b"\x80\x04" + classes + data[2:], a__data__0=values)
    notes = open_weights(tmp_path / "y.pt", sanitize=True)[1]
    assert all(sentence.isprintable() and len(sentence) < 600 for sentence in notes), notes
    assert "mod\\x1b[.c000" in notes[0] and "and 280 more" in notes[0]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",  # a byte array of a terabyte
        b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".",  # a text of an exabyte
        b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFFF) + b".",  # a place in the memo that C code would reserve
        b"\x80\x02L" + b"9" * 100_000 + b"L\n.",  # a number whose conversion takes long
        b"(" * 100_000 + b".",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"0.", b"t.", b"s.", b"R.", b"b.", b"Q.", b"h\x05.", b"", b".", b"\x93.", b"(ios\n.", b"N}s.", b"]}}Ns.", b"(K\x01u.",
    ],
)  # fmt: skip
def test_malformed_pickles_give_one_error(tmp_path, data):
    with pytest.raises(CheckpointError):
        open_weights(with_pickle(tmp_path / "x.pt", data), sanitize=True)
    (tmp_path / "bare.pt").write_bytes(data)
    with pytest.raises(CheckpointError):
        open_weights(tmp_path / "bare.pt", sanitize=True)


@pytest.mark.parametrize("sanitize", [True, False])
def test_compressed_zip_bomb_is_refused(tmp_path, sanitize):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", rebuild((1 << 22,), (1,), elements=1 << 22))
        archive.writestr("a/data/0", bytes(4 << 22))
    with pytest.raises(CheckpointError, match="expands to far more than its size"):
        open_weights(tmp_path / "x.pt", sanitize)


def test_zip_with_two_pickles_is_refused(tmp_path):
    path = with_pickle(tmp_path / "x.pt", rebuild((1,), (1,)), b__data_pkl=b"", c__data__0=b"")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b/data.pkl", b"N.")
    with pytest.raises(CheckpointError, match=r"not exactly one data\.pkl"):
        open_weights(path, sanitize=True)


def test_random_damage_gives_an_error_or_the_tensors(tmp_path):
    whole = {
        zipped: saved({"visual_encoder.a": WEIGHT, "x": argparse.Namespace(a=1)}, tmp_path / "x.pt", zipped).read_bytes()
        for zipped in (True, False)
    }
    generator = torch.Generator().manual_seed(1)
    for data in whole.values():
        for _ in range(300):
            damaged = bytearray(data)
            for _ in range(3):
                place, value = (
                    torch.randint(len(data), (1,), generator=generator),
                    torch.randint(256, (1,), generator=generator),
                )
                damaged[int(place)] = int(value)
            (tmp_path / "y.pt").write_bytes(damaged)
            try:
                open_weights(tmp_path / "y.pt", sanitize=True)
            except CheckpointError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html>Too many requests</html>", "a web page, not a checkpoint"),
        (b"\n<html>", "a web page, not a checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_name(tmp_path, content, message):
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_weights(tmp_path / "x.pt")
