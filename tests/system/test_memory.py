"""Memory of a machine, and of a container that may use a part of it."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from alpro.system import memory


@pytest.mark.parametrize(("text", "limit"), [(f"{3 << 30}\n", 3 << 30), ("max\n", None), (None, None)])
def test_limit_of_a_container_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, limit: int | None
) -> None:
    monkeypatch.setattr(memory, "LIMIT", tmp_path / "memory.max")
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    total = psutil.virtual_memory().total
    assert (memory.container_limit(), memory.total_bytes()) == (limit, min(total, limit or total))
    assert 0 < memory.available_bytes() <= memory.total_bytes()
