"""Of a registered version only MLmodel and the checkpoint are downloaded, and nothing from elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from alpro.errors import TrackingError
from alpro.registry.evaluate import unpack

VERSION: Any = SimpleNamespace(name="alpro-msvd_qa", version="3")


def stored(folder: Path, path: str) -> Any:
    """Write the files of a version, whose checkpoint is at `path`; return their store."""
    (folder / "artifacts/checkpoint").mkdir(parents=True)
    (folder / "artifacts/checkpoint/config.json").write_text("{}")
    (folder / "code/alpro").mkdir(parents=True)
    (folder / "code/alpro/cli.py").touch()
    config = {"frames": "uniform", "max_text_tokens": 20}
    flavour = {"artifacts": {"checkpoint": {"path": path}}, "config": config}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": flavour}}))
    client = SimpleNamespace(get_model_version_download_uri=lambda name, version: str(folder))
    return SimpleNamespace(client=client, uri="sqlite://")


def test_the_checkpoint_is_downloaded_without_the_code(tmp_path: Path) -> None:
    packed = unpack(stored(tmp_path / "stored", "artifacts/checkpoint"), VERSION, tmp_path / "into")
    assert (packed.frames, packed.max_text_tokens) == ("uniform", 20)
    assert (packed.checkpoint / "config.json").is_file() and packed.checkpoint.is_relative_to(tmp_path / "into")
    assert {file.name for file in (tmp_path / "into").rglob("*") if file.is_file()} == {"MLmodel", "config.json"}


def test_a_version_without_a_model_is_refused(tmp_path: Path) -> None:
    store = stored(tmp_path / "stored", "artifacts/checkpoint")
    (tmp_path / "stored/MLmodel").unlink()
    with pytest.raises(TrackingError, match=r"there is no MLmodel"):
        unpack(store, VERSION, tmp_path / "into")


@pytest.mark.parametrize("path", ["../other", "/etc", "artifacts/../../other", "artifacts/nothing"])
def test_a_checkpoint_elsewhere_is_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(TrackingError, match=r"alpro-msvd_qa/3: its files are not a packed checkpoint"):
        unpack(stored(tmp_path / "stored", path), VERSION, tmp_path / "into")
    assert {file.name for file in tmp_path.rglob("*") if "into" in file.parts and file.is_file()} <= {"MLmodel"}
