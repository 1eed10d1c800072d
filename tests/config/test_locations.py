"""Paths in params.yaml: `~` is refused with the path to write, and the file must be UTF-8."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from alpro.config import load
from alpro.errors import ConfigError

TINY = Path(__file__).parents[2] / "recipes" / "tiny.yaml"


@pytest.mark.parametrize(
    "key",
    ["datasets.msvd_qa.videos", "datasets.msvd_qa.annotations", "corpora.cc3m.train", "corpora.cc3m.root", "text.tokenizer",
     "entities.source", "init.finetune", "evaluate.msvd_qa.checkpoint"],
)  # fmt: skip
def test_the_home_folder_is_refused_with_the_path_to_write(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    with pytest.raises(ConfigError, match=rf"{key}: '~/data': DVC does not expand `~` in parameters; write /home/me/data"):
        load(TINY, [f"{key}='~/data'"])
    assert load(TINY, ["datasets.msvd_qa.videos='data/~backup'"]).datasets["msvd_qa"].videos == "data/~backup"


def test_a_file_that_is_not_utf8_is_reported_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(TINY.read_bytes() + "# caf\u00e9\n".encode("latin-1"))
    line = TINY.read_bytes().count(b"\n") + 1
    with pytest.raises(ConfigError, match=rf"params\.yaml: line {line}: not UTF-8 \(byte 0xe9\)"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize("value", ["videos\ud83d", "a\0b"])
def test_a_path_with_half_of_a_character_is_refused(value: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(TINY.read_text(encoding="utf-8"))
    raw["datasets"]["msvd_qa"]["videos"] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load(tmp_path / "params.yaml")
