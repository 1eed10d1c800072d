"""A promotion is picked up while requests are answered; what can't be loaded leaves the old version in use."""

from __future__ import annotations

import gc
import shutil
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from alpro.errors import CheckpointError, ConfigError, TrackingError
from alpro.search.query import Query
from alpro.served import following
from alpro.served.collections import Collections
from alpro.served.engine import Engine
from alpro.served.following import ServedModels
from alpro.served.limits import RequestError
from alpro.served.sources import Found, NamedFile, Sources
from alpro.served.versions import Role
from alpro.serving import single_video
from alpro.tracking import store
from tests.serving.conftest import ANSWERS, TEXTS
from tests.tracking.conftest import empty_store, no_other_store, params
from tests.tracking.tracked_project import with_store

from .conftest import CLIPS, register

__all__ = ["empty_store", "no_other_store", "params"]
CPU = torch.device("cpu")
WAIT_S = 30


class Alias:
    """A source whose champion of each role can be moved, as `alpro promote` and `alpro rollback` do."""

    def __init__(self, **champions: Path | Exception | None) -> None:
        self.champions = champions

    def find(self, role: Role) -> Found | None:
        champion = self.champions.get(role)
        if isinstance(champion, Exception):
            raise champion
        if champion is None:
            return None
        return Found(str(champion), champion.name, "champion", lambda: single_video.load(champion))


def models(sources: Any) -> ServedModels:
    served = ServedModels(sources, CPU)
    served.check()
    return served


def test_moved_alias_is_followed_and_back(checkpoints: Path, others: Path) -> None:
    alias = Alias(ask=checkpoints / "qa", search=checkpoints / "retrieval")
    served = models(alias)
    first = served.version("ask")
    alias.champions["ask"] = others / "qa-2"
    served.check()
    second = served.version("ask")
    assert (first.name, second.name) == ("qa", "qa-2") and first.weights != second.weights
    assert served.version("search").name == "retrieval"
    alias.champions["ask"] = checkpoints / "qa"
    served.check()
    assert served.version("ask").weights == first.weights
    before = served.version("ask")
    served.check()
    assert served.version("ask") is before  # an unmoved alias loads nothing


def test_version_that_cannot_be_loaded_leaves_the_old_one_in_use(checkpoints: Path, tmp_path: Path) -> None:
    alias = Alias(ask=checkpoints / "qa")
    served = models(alias)
    alias.champions["ask"] = tmp_path / "missing"
    served.check()
    assert served.version("ask").name == "qa" and "no checkpoint" in served.problems["ask"]
    alias.champions["ask"] = TrackingError("no MLflow server answers")
    served.check()
    assert served.version("ask").name == "qa" and served.problems["ask"] == "no MLflow server answers"
    alias.champions["ask"] = checkpoints / "qa"
    served.check()
    assert served.problems == {}


def test_unforeseen_failure_does_not_end_the_following(checkpoints: Path, others: Path) -> None:
    alias = Alias(ask=checkpoints / "qa")
    served = models(alias)
    alias.champions["ask"] = MemoryError("out of memory")
    served.check()
    assert served.version("ask").name == "qa" and "MemoryError" in served.problems["ask"]
    alias.champions["ask"] = others / "qa-2"
    served.check()
    assert served.version("ask").name == "qa-2" and served.problems == {}


def test_without_a_model_the_sentence_says_what_to_do() -> None:
    served = models(Alias())
    with pytest.raises(RequestError, match=r"no model that can answer questions.*--checkpoint") as refused:
        served.version("ask")
    assert (refused.value.status, refused.value.code) == (503, "no_model")


def test_200_requests_during_a_promotion_all_succeed(
    checkpoints: Path, others: Path, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "POLL_S", 0.05)
    alias = Alias(ask=checkpoints / "qa", search=checkpoints / "retrieval")
    served = ServedModels(alias, CPU)  # type: ignore[arg-type]
    collections = Collections(served, state=tmp_path)
    served.start()
    engine = Engine(served)
    collections.index(videos)
    asked, searched = set(), set()
    try:
        for number in range(200):
            if number == 60:
                alias.champions.update(ask=others / "qa-2", search=others / "retrieval-2")
            collection = collections.get(videos)
            search = engine.search(collection, Query(TEXTS[0], 2), WAIT_S)
            asked.add(engine.ask(videos / CLIPS[number % 3], TEXTS[1], WAIT_S).result(WAIT_S).version.name)
            searched.add(search.result(WAIT_S).version.name)
        wait_for(lambda: collections.get(videos).version.name == "retrieval-2" and served.version("ask").name == "qa-2")
        assert engine.ask(videos / CLIPS[0], TEXTS[1], WAIT_S).result(WAIT_S).version.name == "qa-2"
        assert "qa" in asked and "retrieval" in searched
    finally:
        served.stop()
        engine.close()


def wait_for(condition: Any) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        threading.Event().wait(0.02)


def test_old_version_is_freed(checkpoints: Path, others: Path, videos: Path) -> None:
    alias = Alias(ask=checkpoints / "qa")
    served = models(alias)
    engine = Engine(served)
    assert engine.ask(videos / CLIPS[0], TEXTS[1], WAIT_S).result(WAIT_S)
    old = weakref.ref(served.version("ask").service.model)
    alias.champions["ask"] = others / "qa-2"
    served.check()
    assert engine.ask(videos / CLIPS[0], TEXTS[1], WAIT_S).result(WAIT_S)
    gc.collect()
    assert old() is None
    engine.close()


def test_request_keeps_the_version_that_it_began_with(checkpoints: Path, others: Path, videos: Path) -> None:
    alias = Alias(ask=checkpoints / "qa")
    served = models(alias)
    engine = Engine(served)
    gate = threading.Event()
    compute = engine._compute
    engine._compute = lambda jobs: (gate.wait(WAIT_S), compute(jobs))[1]  # type: ignore[method-assign]
    future = engine.ask(videos / CLIPS[0], TEXTS[1], WAIT_S)
    alias.champions["ask"] = others / "qa-2"
    served.check()
    gate.set()
    assert future.result(WAIT_S).version.name == "qa" and served.version("ask").name == "qa-2"
    engine.close()


# --- sources --------------------------------------------------------------------------------------------------


def test_named_file_comes_first_then_the_newest_checkpoint(project: Path, checkpoints: Path) -> None:
    found = Sources(project, None).find("search")
    assert found is not None and (found.origin, found.name) == ("checkpoint", "models/tiny/finetune/clips")
    named = Sources(project, None, [NamedFile(str(checkpoints / "retrieval"))])
    search, ask = named.find("search"), named.find("ask")
    assert search is not None and (search.origin, search.name) == ("file", str(checkpoints / "retrieval"))
    assert ask is not None and ask.origin == "checkpoint"


def test_pretrained_checkpoint_searches_if_nothing_is_fine_tuned(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project / "models/tiny/pretrain", tmp_path / "models/tiny/pretrain")
    found = Sources(tmp_path, None).find("search")
    assert found is not None and found.name == "models/tiny/pretrain" and Sources(tmp_path, None).find("ask") is None


def test_two_files_of_one_kind_and_a_prompter_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    file = NamedFile(str(checkpoints / "qa"))
    with pytest.raises(ConfigError, match="names two models that ask"):
        Sources(tmp_path, None, [file, file])
    with pytest.raises(ConfigError, match="a prompter checkpoint cannot be served"):
        Sources(tmp_path, None, [NamedFile(str(checkpoints / "prompter"))])
    with pytest.raises(CheckpointError, match="no checkpoint"):
        Sources(tmp_path, None, [NamedFile(str(tmp_path / "none"))])
    with pytest.raises(ConfigError, match="no qa data set"):
        Sources(tmp_path, None, tasks={"ask": "msvd_qa"})


def test_champion_of_the_registry_is_served(
    checkpoints: Path, others: Path, empty_store: Path, params: Any, tmp_path: Path
) -> None:
    root = tmp_path / "project"
    root.mkdir()
    with_store(root, empty_store)
    sources = Sources(root, params)
    assert sources.find("ask") is None
    register(root, "alpro-msvd_qa", checkpoints / "qa", others / "qa-2")
    for number in ("1", "2", "1"):
        with store.opened(root) as opened:
            opened.client.set_registered_model_alias("alpro-msvd_qa", "champion", number)
        found = sources.find("ask")
        assert found is not None and (found.origin, found.name) == ("champion", f"alpro-msvd_qa/{number}")
        service = found.load()
        assert service.task == "qa" and service.answers == ANSWERS and service.max_text_tokens == 20
