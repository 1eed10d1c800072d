"""`make image` uses the engine that works, and the Dockerfile is one that docker, podman and buildah understand."""

from __future__ import annotations

import re
from pathlib import Path

import image
import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def programs(folder: Path, **codes: int) -> None:
    """Write programs that end with an exit code."""
    for name, code in codes.items():
        (folder / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (folder / name).chmod(0o755)


def test_first_engine_that_works_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(image.ImageError, match="no engine found; install docker, podman or buildah"):
        image.engine()
    programs(tmp_path, docker=1)
    with pytest.raises(image.ImageError, match="`docker info` fails"):
        image.engine()
    programs(tmp_path, podman=1, buildah=0)
    assert image.engine() == "buildah"
    programs(tmp_path, podman=0)
    assert image.engine() == "podman"


def test_image_is_named_and_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image, "version", lambda: "1.2.3")
    names = {image.tag(target, base) for target in image.TESTS for base in image.BASES}
    assert names == {"alpro:1.2.3", "alpro:1.2.3-gpu", "alpro:1.2.3-serve", "alpro:1.2.3-serve-gpu"}
    words = image.build_command("podman", "run", "gpu", ["--no-cache"], Path("/context"))
    assert words[:2] == ["podman", "build"] and words[-2:] == ["--no-cache", "/context"]
    given = " ".join(words)
    assert "HOROVOD_TARGET=horovod-gpu" in given and "image.licenses=BSD-3-Clause" in given
    assert re.search(r"image\.revision=[0-9a-f]{40}\b", given)


def test_every_stage_has_a_name_that_needs_no_expansion() -> None:
    """Buildah 1.28 does not find a stage whose name contains a variable."""
    stages = re.findall(r"^FROM (\S+) AS (\S+)$", DOCKERFILE, re.M)
    names = [name for _, name in stages]
    assert {*image.TESTS} <= {*names} and not [name for name in names if "$" in name]
    variables = {base for base, _ in stages if base not in names}
    assert variables == {"${BUILD_IMAGE}", "${RUN_IMAGE}"}
    declared = set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.M))
    assert {key for base in image.BASES.values() for key in base} | {"TORCH_INDEX"} <= declared


def test_images_do_not_run_as_root() -> None:
    for part in re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]:
        users = re.findall(r"^USER (\S+)$", part, re.M)
        assert users[-1:] in (["10001"], []), part.splitlines()[0]
        if not users:
            assert part.startswith("tools AS "), "a stage of its own states its user"


def test_context_has_neither_secrets_nor_state() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {".venv", ".mlflow", ".prefect", ".team", "deploy/secrets"} <= {*ignored}
