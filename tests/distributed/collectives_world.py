"""A test rank that checks the results of every collective; rank 0 writes digests to OUT.json."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from alpro import distributed
from alpro.distributed import gradients as distributed_gradients


def check_gather(rank: int, world: int) -> None:
    """Check `gather` with different sizes: rank order, and a backward pass that is the exact sum."""
    sizes = [r + 1 for r in range(world)]
    assert distributed.row_sizes(rank + 1) == sizes
    offset = sum(sizes[:rank])
    rows = torch.arange(float(sum(sizes)), dtype=torch.float64)[:, None] * torch.ones(3, dtype=torch.float64)
    x = rows[offset : offset + rank + 1].clone().requires_grad_()
    gathered, start = distributed.gather(x)
    assert torch.equal(gathered, rows) and start == offset
    weights = [
        torch.randn(gathered.shape, generator=torch.Generator().manual_seed(r), dtype=torch.float64) for r in range(world)
    ]
    (gathered * weights[rank]).T.contiguous().sum().backward()
    assert x.grad is not None and x.grad.is_contiguous()
    torch.testing.assert_close(x.grad, sum(weights)[offset : offset + rank + 1], rtol=1e-14, atol=1e-14)
    images, _ = distributed.gather(x.detach().reshape(rank + 1, 1, 3))
    assert torch.equal(images, rows[:, None])
    half, _ = distributed.gather(x.detach().bfloat16())  # Horovod itself refuses bfloat16
    assert half.dtype == torch.bfloat16 and torch.equal(half.double(), rows.bfloat16().double())


def check_objects_and_reductions(rank: int, world: int) -> None:
    assert distributed.gather_objects(None if rank else {"a": 1}) == [{"a": 1}] + [None] * (world - 1)
    assert distributed.broadcast_object(f"from {rank}") == "from 0"
    assert distributed.broadcast_object(None if rank else [1]) == [1]
    value = torch.tensor([float(rank), -float(rank)])
    assert distributed.all_reduce(value, "sum")[0] == sum(range(world))
    assert distributed.all_reduce(value, "mean")[0] == sum(range(world)) / world
    assert distributed.all_reduce(value, "max").tolist() == [world - 1, 0]
    assert distributed.all_reduce(value, "min").tolist() == [0, 1 - world]
    assert value.tolist() == [rank, -rank]
    assert distributed.any_true(rank == world - 1) and not distributed.any_true(False)


def check_state(rank: int) -> None:
    torch.manual_seed(rank)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    distributed.broadcast_state(model)
    torch.manual_seed(0)
    first = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), first.state_dict().values(), strict=True))


def check_compression(rank: int, world: int) -> None:
    """Check fp16 compression: the only error is the rounding to 11 bits, and an overflow is infinite on every rank."""
    torch.manual_seed(1)
    gradients = torch.randn(world, 50)
    p = torch.nn.Parameter(torch.zeros(50))
    p.grad = gradients[rank].clone()
    distributed.GradientExchange([p], "fp16").finish()
    assert p.grad is not None and p.grad.dtype == torch.float32
    error = (p.grad - gradients.mean(0)).abs().max().item()
    assert 1e-6 < error < 4e-3, error
    p.grad = torch.full((50,), 1e6)
    distributed.GradientExchange([p], "fp16").finish()
    assert p.grad.isinf().all()


def exchange(rank: int) -> str:
    """Exchange gradients of many sizes and scales, some missing on some or all ranks; return a digest of the means."""
    torch.manual_seed(rank)
    parameters = [torch.nn.Parameter(torch.zeros(n + 1, 7)) for n in range(60)]
    parameters += [
        torch.nn.Parameter(torch.zeros(4, dtype=torch.float64)),
        torch.nn.Parameter(torch.zeros(2), requires_grad=False),
    ]
    for number, p in enumerate(parameters[:-1]):
        if number == 5 or (number == 6 and rank):
            continue
        p.grad = torch.randn(p.shape, dtype=p.dtype) * 10 ** (6 * torch.rand(()).item())
    own = parameters[6].grad
    distributed.GradientExchange(parameters).finish()
    assert parameters[5].grad is None and parameters[-1].grad is None
    if own is not None:
        torch.testing.assert_close(parameters[6].grad, own / distributed.size())
    digest = hashlib.sha256()
    for p in parameters:
        if p.grad is not None:
            digest.update(p.grad.numpy().tobytes())
    return digest.hexdigest()


def check_overlap(rank: int, world: int) -> None:
    """Check that gradients sent during the backward pass, at other times on each rank, are those sent after it, bit for bit."""
    torch.manual_seed(0)
    shared = torch.nn.Linear(8, 8)
    unused = torch.nn.Linear(2, 2)  # has no gradient on any rank
    own = torch.nn.Linear(8, 1)  # has one on rank 0 only
    model = torch.nn.ModuleList([torch.nn.Linear(8, 8), shared, torch.nn.Linear(8, 8), unused, own])
    parameters = list(model.parameters())
    exchange = distributed.GradientExchange(parameters)

    def backward(seed: int) -> None:
        x = torch.randn(5, 8, generator=torch.Generator().manual_seed(10 * seed + rank))
        hidden = shared(model[0](x).relu())
        hidden.register_hook(lambda gradient: time.sleep(0.02 * (rank % 2)))
        loss = shared(model[2](hidden)).square().sum()  # the shared layer's gradient is complete at the end only
        (loss + own(hidden).sum() if rank == 0 else loss).backward()

    def means(overlapping: bool, poison: Tensor | None = None) -> list[Tensor | None]:
        model.zero_grad()
        backward(1)  # of an earlier micro-batch: nothing may be sent
        if overlapping:
            exchange.begin(poison)
        backward(2)
        exchange.finish()
        return [p.grad for p in parameters]

    after, during, again = means(False), means(True), means(True, torch.tensor(0.0))
    for a, b, c in zip(after, during, again, strict=True):
        assert (a is None) == (b is None) == (c is None)
        assert a is None or b is None or c is None or (torch.equal(a, b) and torch.equal(a, c))
    assert [p.grad is None for p in parameters].count(True) == 2
    nan = means(True, torch.tensor(float("nan") if rank == world - 1 else 0.0))
    assert any(bool(gradient.isnan().any()) for gradient in nan if gradient is not None)


def check_order(rank: int, world: int) -> None:
    """Check the exchange if rank 0 alone completes a bucket before the gradient of gathered rows is sent."""
    torch.manual_seed(0)
    model = torch.nn.ModuleList([torch.nn.Linear(6, 5), torch.nn.Linear(6, 5), torch.nn.Linear(5, 1)])
    exchange = distributed.GradientExchange(list(model.parameters()))
    for step in range(3):
        model.zero_grad()
        x = torch.randn(world, 4, 6, generator=torch.Generator().manual_seed(step))
        everyone, _ = distributed.gather(model[0](x[rank]) + model[1](x[rank]).relu())
        loss = everyone.square().mean()
        exchange.begin()
        (loss + model[2](everyone.detach()).mean() if rank == 0 else loss).backward()
        exchange.finish()
        means = [p.grad.clone() for p in model[:2].parameters() if p.grad is not None]
        model.zero_grad()
        (model[0](x) + model[1](x).relu()).square().mean().backward()
        for mean, p in zip(means, model[:2].parameters(), strict=True):
            torch.testing.assert_close(mean, p.grad)


def run_rank(out: str | Path) -> None:
    """Join the world, check every collective, and write the digests to a file on rank 0."""
    distributed.init()
    rank, world = distributed.rank(), distributed.size()
    check_gather(rank, world)
    check_objects_and_reductions(rank, world)
    check_state(rank)
    check_compression(rank, world)
    digests = [exchange(rank)]
    check_overlap(rank, world)
    distributed_gradients.BUCKET_ELEMENTS = 300  # many buckets in flight at once
    digests += [exchange(rank) for _ in range(4)]
    distributed_gradients.BUCKET_ELEMENTS = 80
    check_overlap(rank, world)
    distributed_gradients.BUCKET_ELEMENTS = 1
    check_order(rank, world)
    results = distributed.gather_objects([digests, rank, distributed.local_rank(), distributed.local_size()])
    distributed.barrier()
    if rank == 0:
        Path(out).write_text(json.dumps(results))
    distributed.shutdown()
    assert (distributed.rank(), distributed.size()) == (0, 1)


if __name__ == "__main__":
    run_rank(sys.argv[1])
