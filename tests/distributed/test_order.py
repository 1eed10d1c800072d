"""Collectives that a backend matches by their order start in the same one on all ranks, whatever each backward pass does."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from alpro import distributed
from alpro.distributed import collectives, gradients, objects
from alpro.distributed.backend import Backend, Reduction


class Recorder(Backend):
    """One rank whose partner sends zeros; records the names of reductions in the order in which they start."""

    name = "recorder"
    rank, size, local_rank, local_size = 0, 2, 0, 2

    def __init__(self, matches_by_order: bool) -> None:
        self.matches_by_order = matches_by_order  # type: ignore[misc]
        self.started: list[str] = []

    def connect(self) -> None: ...

    def leave(self) -> None: ...

    def exchanges_on(self, device: torch.device) -> bool:
        return True

    def all_gather(self, x: Tensor, name: str, rows: Sequence[int] | None = None) -> Tensor:
        return x

    def start_reduce(self, x: Tensor, operation: Reduction, name: str) -> Callable[[], Tensor]:
        self.started.append(name)
        return lambda: x

    def broadcast(self, x: Tensor, root: int, name: str) -> None: ...

    def barrier(self) -> None: ...

    def take(self) -> list[str]:
        """Return the names of the gradients' buckets, and of the others, that have started since the last call."""
        started, self.started = self.started, []
        return [name.removeprefix("gradients.") for name in started]


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Recorder:
    backend = Recorder(matches_by_order=request.param)
    for module in (collectives, gradients, objects):
        monkeypatch.setattr(module, "active_backend", lambda: backend)
    monkeypatch.setattr(gradients, "BUCKET_ELEMENTS", 1)  # one parameter each, numbered from the last
    return backend


class Parts(nn.Module):
    """Three weights whose gradients come in the order middle, last, first; `extra` has one on some ranks only."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last, self.extra = (nn.Parameter(torch.ones(1)) for _ in range(4))

    def forward(self, x: Tensor, with_extra: bool) -> Tensor:
        hidden = distributed.gather((x * self.first)[None]).rows.sum() * self.last * self.middle
        return hidden * self.extra if with_extra else hidden


def step(exchange: distributed.GradientExchange, model: Parts, with_extra: bool) -> None:
    model.zero_grad()
    loss = model(torch.ones(1), with_extra).sum()
    exchange.begin()
    loss.backward()
    exchange.finish()


@pytest.mark.parametrize("recorder", [True], indirect=True)
@pytest.mark.parametrize("with_extra", [True, False])
def test_order_is_that_of_the_parameters_and_then_that_of_rank_0s_first_step(recorder: Recorder, with_extra: bool) -> None:
    model = Parts()
    exchange = distributed.GradientExchange(list(model.parameters()))
    step(exchange, model, with_extra)
    sent = "gather.backward.sum"
    assert recorder.take() == [sent, "0", "1", "2", "3"]
    learned = ["0", "2", "1", "3"] if with_extra else ["2", "1", "3", "0"]
    for later in (True, False, with_extra):  # the other ranks', too, whichever gradients they have
        step(exchange, model, later)
        assert recorder.take() == [sent, *learned]


@pytest.mark.parametrize("recorder", [False], indirect=True)
def test_buckets_that_are_matched_by_name_start_as_soon_as_they_are_complete(recorder: Recorder) -> None:
    model = Parts()
    exchange = distributed.GradientExchange(list(model.parameters()))
    for with_extra, order in ((True, ["0", "2", "1"]), (False, ["2", "1"])):
        step(exchange, model, with_extra)
        started = recorder.take()
        assert started[: len(order)] == order and sorted(started[len(order) :]) == sorted(
            {"gather.backward.sum", "3", *({"0"} - {*order})}
        )


@pytest.mark.parametrize("recorder", [True], indirect=True)
def test_evaluation_between_steps_holds_no_bucket_back(recorder: Recorder) -> None:
    model = Parts()
    exchange = distributed.GradientExchange(list(model.parameters()))
    step(exchange, model, True)
    with torch.no_grad():
        model(torch.ones(1), True)
    assert not collectives.gradients_to_come()
    model(torch.ones(1), True)  # never differentiated
    assert collectives.gradients_to_come()
    step(exchange, model, True)
    assert not collectives.gradients_to_come()
