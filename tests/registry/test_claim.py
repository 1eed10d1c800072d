"""One program at a time moves a champion, also through a store that has no locks."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from alpro.registry import claim
from alpro.registry.claim import CLAIM, claimed


class Store:
    """The tags of a registered model, with the three requests that a claim uses. For several threads."""

    def __init__(self) -> None:
        self.tags: dict[str, str] = {}
        self.lock = threading.Lock()

    def set_registered_model_tag(self, model: str, key: str, value: str) -> None:
        with self.lock:
            self.tags[key] = value

    def delete_registered_model_tag(self, model: str, key: str) -> None:
        with self.lock:
            self.tags.pop(key, None)

    def get_registered_model(self, model: str) -> Any:
        with self.lock:
            return SimpleNamespace(tags=dict(self.tags))


def test_one_program_at_a_time_has_the_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "RETRY_S", 0.001)
    store: Any = Store()
    inside, most, done = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with claimed(store, "m"):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)  # long enough for another one to come in, if it could
                inside -= 1
        done.append(True)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, len(done), store.tags) == (1, 4, {})


def test_claim_ends_with_an_error_in_the_block() -> None:
    store: Any = Store()
    with pytest.raises(ValueError, match="no"), claimed(store, "m"):
        assert [name for name in store.tags if name.startswith(CLAIM)]
        raise ValueError("no")
    assert not store.tags


def test_claim_of_a_killed_program_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "RETRY_S", 0.001)
    monkeypatch.setattr(claim, "DEAD_S", 0.01)
    store: Any = Store()
    store.tags[f"{CLAIM}left"] = "process 7 on a machine that is gone"
    with claimed(store, "m"):
        assert len(store.tags) == 1 and f"{CLAIM}left" not in store.tags
    assert not store.tags
