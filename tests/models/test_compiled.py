"""`launch.compile`: one graph for all blocks, equal results, training only, and one line if the machine cannot compile."""

from __future__ import annotations

import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from alpro.errors import ConfigError
from alpro.models import compiled
from alpro.models.compiled import compile_blocks
from alpro.models.timesformer import drop_paths

CPU = torch.device("cpu")
LAYERS = 10  # more than the graphs that torch.compile keeps of one function


@pytest.fixture(autouse=True)
def _forget_graphs() -> Iterator[None]:
    yield
    torch.compiler.reset()


class Counting:
    """A back end of torch.compile that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def step(model: Any, batch: Any) -> tuple[float, dict[str, Tensor]]:
    """Return the loss and the gradients of a training step."""
    model.zero_grad()
    torch.manual_seed(3)
    total = model(batch).total
    total.backward()
    return total.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def deep(small: Callable[..., Any], task: str, drop_path: float, **options: Any) -> Any:
    """Return a small model with many blocks, in training mode."""
    config = small(task).config.model_copy(update={"vision_layers": LAYERS, "drop_path": drop_path})
    return small(task, config=config, **options).train()


@pytest.mark.parametrize("checkpointing", ["none", "exact"])
@pytest.mark.parametrize(("task", "graphs"), [("qa", 1), ("prompter", 2)])  # the prompter's last block computes only [CLS]
def test_all_blocks_share_a_graph_whatever_their_drop_path(
    small: Callable[..., Any], batch: Callable[..., Any], task: str, graphs: int, checkpointing: str
) -> None:
    model, backend = deep(small, task, 0.5, gradient_checkpointing=checkpointing), Counting()
    compile_blocks(model, CPU, backend)
    for seed in range(2):
        step(model, batch(seed=seed))
    assert backend.graphs == graphs


def test_evaluation_is_not_compiled(small: Callable[..., Any], batch: Callable[..., Any]) -> None:
    model, backend = deep(small, "qa", 0.1), Counting()
    plain = model.eval()(batch()).logits["qa"]
    compile_blocks(model, CPU, backend)
    assert torch.equal(model(batch()).logits["qa"], plain)
    with torch.no_grad():
        model.train()(batch())
    assert backend.graphs == 0


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_training_gives_the_same_losses_and_gradients(
    small: Callable[..., Any], batch: Callable[..., Any], backend: str
) -> None:
    if backend == "inductor":
        try:
            compiled.check_compiler("cpu")
        except ConfigError as error:
            pytest.skip(str(error))
    model = deep(small, "qa", 0.0)
    loss, gradients = step(model, batch())
    compile_blocks(model, CPU, backend)
    again, others = step(model, batch())
    assert again == pytest.approx(loss, rel=1e-5) and gradients.keys() == others.keys()
    whole = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
    error = torch.stack([(others[name] - gradient).norm() for name, gradient in gradients.items()]).norm()
    assert error <= 1e-5 * whole


def test_names_of_the_weights_stay(small: Callable[..., Any]) -> None:
    model = small("qa")
    before = list(model.state_dict())
    compile_blocks(model, CPU, "eager")
    assert list(model.state_dict()) == before


def test_paths_are_dropped_as_often_as_the_tensor_says_and_the_rest_is_scaled() -> None:
    torch.manual_seed(0)
    x = torch.ones(20_000, 2, requires_grad=True)
    dropped = drop_paths(x, torch.tensor(0.8))
    assert dropped[:, 0].unique().tolist() == [0, 1.25] and torch.equal(dropped[:, 0], dropped[:, 1])
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)  # five standard deviations
    assert torch.equal(drop_paths(x, torch.tensor(1.0)), x)
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped)  # type: ignore[arg-type]


def test_machine_without_a_compiler_is_refused_in_one_line(
    small: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    text = r"launch.compile: torch.compile needs a compiler \(g\+\+\) and the headers of Python .*, or set it to false"
    with pytest.raises(ConfigError, match=text) as refused:
        compile_blocks(small("qa"), CPU)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="a compiler \\(gcc or cc or clang\\)"):
        compiled.check_compiler("cuda")


def test_own_compiler_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", shutil.which("true") or "true")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    (tmp_path / "Python.h").touch()
    compiled.check_compiler("cpu")
