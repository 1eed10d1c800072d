"""Training loop of all four trainings: micro-steps, one gradient exchange, clipping, schedule, update, validation, log.

A task provides the model, the data, the losses and the validation; the engine knows nothing about video or text.
N processes with batch size B compute the gradient of one process with N x B. Each loss is a mean over its items (clips,
masked tokens, kept crops), so each rank's share is weighted by its number of items before the gradients are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from alpro import distributed
from alpro.config import Training
from alpro.errors import ConfigError, TrainingError
from alpro.launch import heartbeat
from alpro.objectives.precision import autocast, widened
from alpro.system.allocator import keep_freed_memory
from alpro.training import randomness
from alpro.training.checkpointer import Checkpointer
from alpro.training.clipping import StepCheck, StepNumbers, exchange_and_clip
from alpro.training.finite import MicroStep, nan_unless_finite
from alpro.training.flops import peak_flops
from alpro.training.log import Clock, Log, LossWindow, last_validation, resized_warning
from alpro.training.optim import AdamW
from alpro.training.schedule import Schedule, learning_rate, validation_steps
from alpro.training.signals import stop_on_signal
from alpro.training.snapshots import Snapshot
from alpro.training.task import BatchLoader, Best, Losses, Task, selection
from alpro.training.weights import load_tensors, optimizer_moments, trained_weights, update_counts


class Engine:
    """Trains the model of one task: call `run`."""

    worlds: list[tuple[int, int]]  # (first step, processes) of each world size so far
    schedule: Schedule
    total: int  # number of the last step
    loader: BatchLoader

    def __init__(
        self,
        task: Task,
        settings: Training,
        *,
        seed: int,
        device: torch.device | None = None,
        checkpointer: Checkpointer | None = None,
        log: Log | None = None,
    ) -> None:
        """Raise ConfigError if `select_by` is unknown, or if the data give fewer micro-steps than one step needs."""
        self.task, self.settings, self.seed = task, settings, seed
        self.device = device or torch.device("cpu")
        self.checkpointer = checkpointer or Checkpointer()
        self.log, self.clock = log or Log(), Clock()
        self.rank, self.world_size = distributed.rank(), distributed.size()
        self.model = task.model.to(self.device)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = AdamW(self.parameters, settings.learning_rate, settings.betas, settings.epsilon, settings.weight_decay)
        self.exchange = distributed.GradientExchange(self.parameters, settings.compression)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.accumulation = settings.accumulation
        self.replan([(0, self.world_size)])
        if self.total < 1:
            raise ConfigError(f"{settings.epochs} epochs have fewer micro-steps than accumulation {self.accumulation}")
        self.metric, self.sign = selection(settings.select_by, task.metrics)
        self.step = 0
        self.best: Best | None = None
        self.validated = 0  # step of the last validation
        self.window = LossWindow(("loss", *task.losses), self.device)
        self.check = StepCheck(task.losses, self.checkpointer.last_snapshot)
        peak = peak_flops(self.device, settings.precision)
        self.clip_share = task.flops_per_clip / peak if peak else None  # seconds

    def replan(self, worlds: Sequence[tuple[int, int]]) -> None:
        """Plan steps and schedule for the world sizes so far, (first step, processes) each."""
        self.worlds = list(worlds)
        for count in range(1, len(self.worlds) + 1):
            micro_steps = self.task.plan_for([(step * self.accumulation, world) for step, world in self.worlds[:count]])
            total = min(micro_steps // self.accumulation, self.settings.max_steps or micro_steps)
            self.schedule = Schedule(total, total) if count == 1 else self.schedule.resized(self.worlds[count - 1][0], total)
        self.total = self.schedule.total
        self.validation_points = validation_steps(self.schedule.length, self.settings.validations)

    # --- training loop ---------------------------------------------------------------------------------------------

    def run(self) -> Best:
        """Train to the last step, from the newest snapshot if there is one. The model then has the best weights.

        Raises TrainingError on all ranks if numbers are not finite, the disk fails, or a stop was requested.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
            randomness.sum_in_one_order()
        self.rank, self.world_size = distributed.rank(), distributed.size()
        # before anything is drawn, so that a first run and a resumed one start from the same state
        randomness.seed_everything(self.seed, "training", self.rank)
        if not self.checkpointer.restore(self):
            distributed.broadcast_state(self.model)
            self._open_loader()
        self.model.train()
        if self.checkpointer.commit_every:  # on every rank: one that just joined has no state, and a rank may be lost soon
            with self.clock.paused():
                self.checkpointer.commit(self)
        with stop_on_signal(), self.log.running(self.step, self.total):
            batches = iter(self.loader)
            while self.step < self.total:
                requests = self._step(batches)
                reached = self.schedule.reaches(self.step, self.validation_points)
                commits = self.checkpointer.commit_is_due(self.step)
                if reached or requests.save or requests.stop or commits:
                    self.check.settle()
                if reached:
                    self._validate()
                if requests.save or requests.stop:
                    heartbeat.beat("saving", self.step, self.total)
                    with self.clock.paused():
                        self.checkpointer.save(self)
                elif commits:
                    with self.clock.paused():
                        self.checkpointer.commit(self)
                if requests.stop:
                    position = f"step {self.step} of {self.total}"
                    raise TrainingError(f"stopped at {position} as requested; {self.checkpointer.last_snapshot()}")
                self.checkpointer.after_step()
            if self.best is None or self.validated < self.step:  # a smaller world may have ended the plan early
                self._validate()
            self.checkpointer.commit(self)
        assert self.best is not None
        if "best" not in self.settings.keep:
            return last_validation(self.log.history, self.metric, self.task.metrics)
        if "last" in self.settings.keep:
            self.checkpointer.keep("last", self.step, trained_weights(self.model))
        self.checkpointer.load_best(self.model, self.best.step)
        return self.best

    def _step(self, batches: Iterator[tuple[int, Any]]) -> _Requests:
        """Do one optimizer step. Returns the requests that all ranks agreed on."""
        # set the learning rate
        step, settings = self.step + 1, self.settings
        position = self.schedule.position(step)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(position, settings.learning_rate, settings.warmup_ratio, self.schedule.length)
        # forward and backward of each micro-batch
        self.optimizer.zero_grad(set_to_none=True)
        requests = _Requests(self.rank == 0 and self.checkpointer.save_is_due(settings.save_every_s), heartbeat.stop_asked())
        micro_steps: list[MicroStep] = []
        for _ in range(self.accumulation):
            heartbeat.beat("reading", step, self.total)
            with self.clock.waiting():
                _, batch = next(batches)
            self.clock.clips += len(batch)
            heartbeat.beat("computing", step, self.total)
            losses = self._backward(batch.to(self.device), requests, [m.losses for m in micro_steps])
            micro_steps.append(MicroStep(batch.ids, losses, distributed.gathered_finite()))
        # average the gradients over all ranks and clip them
        heartbeat.beat("exchange", step, self.total)
        norm, own_gradients = exchange_and_clip(self.exchange, self.parameters, self.optimizer, self.scaler, settings)
        numbers = StepNumbers(step, micro_steps, norm)
        # update the weights, unless the fp16 gradients overflowed
        if self.check.allows(numbers, self.scaler, own_gradients, late=self.world_size == 1):
            self.scaler.step(self.optimizer)
        self.scaler.update()
        # count the step and log it
        self.check.next_step()
        self.step = step
        self.checkpointer.uncommitted_ids.append((step, [name for micro in micro_steps for name in micro.ids]))
        self.window.add(torch.stack([micro.losses for micro in micro_steps]).sum(0))
        if step % settings.log_every == 0 or step == self.total:
            self.check.settle()
            self._log_losses(norm.item())
        self.log.advance(step)
        return requests

    def _backward(self, batch: Any, requests: _Requests, earlier: Sequence[Tensor] = ()) -> Tensor:
        """Add the gradients of one micro-step; in the last one of a step, `earlier` has the results of the others.

        Returns this rank's share of the world's mean losses, (1 + losses,).
        """
        names = self.task.losses
        exchange = _CountExchange(names, requests, self.device)
        with autocast(self.device, self.settings.precision):
            output: Losses = self.model(batch, announce=exchange.start) if self.world_size > 1 else self.model(batch)
        means = torch.stack([widened(output.losses[name]) for name in names])
        weights = _on_device(tuple(output.weights.get(name, 1.0) for name in names), means.dtype, means.device)
        scales = torch.ones_like(means)
        if self.world_size > 1:
            shares_of_items = exchange.finish()
            if self.settings.average == "items":
                scales = (shares_of_items * self.world_size).to(means.dtype)
        shares = (means * scales).detach().double() / self.accumulation
        losses = torch.cat([(shares * weights.double()).sum()[None], shares])
        if len(earlier) == self.accumulation - 1:
            self.exchange.begin(None if self.scaler.is_enabled() else nan_unless_finite([*earlier, losses]))
        divisor = self.accumulation if self.settings.accumulate == "mean" else 1
        self.scaler.scale((means * weights * scales).sum() / divisor).backward()
        return losses

    # --- validation and log ----------------------------------------------------------------------------------------

    def _validate(self) -> None:
        heartbeat.beat("validation", self.step, self.total)
        with self.clock.paused(), randomness.isolated(self.seed, "validation", self.rank), torch.no_grad():
            self.model.eval()
            metrics = self.task.validate()
            self.model.train()
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingError(
                f"step {self.step}: validation metric {', '.join(bad)} is not finite; {self.checkpointer.last_snapshot()}"
            )
        self.log.write({"step": self.step, "epoch": self._epoch(), "split": "val", **metrics})
        self.validated = self.step
        if "every" in self.settings.keep:
            self.checkpointer.keep(f"step-{self.step:09d}", self.step, trained_weights(self.model))
        value = metrics[self.metric]
        if self.best is None or self.sign * value > self.sign * self.best.value:
            self.best = Best(self.step, value, metrics)
            self.checkpointer.save_best(self.step, trained_weights(self.model))

    def _log_losses(self, norm: float) -> None:
        """Write a history row with means over the steps since the last one; the same on every rank and in every run."""
        losses, left_out, requested = self.window.means(self.loader.counts, self.world_size)
        row = {"step": self.step, "epoch": self._epoch(), "split": "train", **losses}
        if left_out:  # by all ranks so far
            row["left_out"] = left_out
        row |= {"lr": self.optimizer.param_groups[0]["lr"], "grad_norm": norm}
        self.log.write(row, self.clock.lap(self.world_size, self.device, self.clip_share))
        self.loader.check_unreadable(left_out, requested)

    def _epoch(self) -> int:
        """Return the epoch of the last step, counted from 0."""
        return self.task.epoch_of(self.step * self.accumulation - 1)

    # --- state ---------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return the state after the last step: `shared` is the same on every rank, `rank` is this rank's own."""
        return {
            "shared": {
                "step": self.step,
                "total": self.total,
                "worlds": self.worlds,
                "updates": update_counts(self.model, self.optimizer),
                "scaler": self.scaler.state_dict(),
                "window_steps": self.window.steps,
                "history": [list(row.items()) for row in self.log.history],  # JSON objects would lose the order of columns
                "validated": self.validated,
                "best": asdict(self.best) if self.best else {},
            },
            "rank": {"random": randomness.capture(), "window": self.window.sums.tolist(), "loader": self.loader.state_dict()},
            "tensors": {"weights": trained_weights(self.model), "moments": optimizer_moments(self.model, self.optimizer)},
        }

    def load_state_dict(self, state: Mapping[str, Any], snapshot: Snapshot | None, root: int) -> None:
        """Load a state; every rank calls this, but only rank `root` has a snapshot with the tensors.

        With the same number of processes the training continues bit-exactly. With another number the rest is replanned
        from the current step, and the generators are reseeded.
        """
        load_tensors(self.model, self.optimizer, snapshot, state["updates"], root)
        self.step, self.validated = state["step"], state["validated"]
        if state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.best = Best(**state["best"]) if state["best"] else None
        self.log.resume([dict(row) for row in state["history"]])
        self.log.say(f"resume: continuing after step {self.step} of {state['total']}")
        ranks, worlds = state["ranks"], [tuple(world) for world in state["worlds"]]
        self.window.load(state["window_steps"], [rank["window"] for rank in ranks], self.rank, self.world_size)
        if len(ranks) == self.world_size:
            self.replan(worlds)
            randomness.restore(ranks[self.rank]["random"])
        else:
            self.replan([*worlds, (self.step, self.world_size)] if self.step else [(0, self.world_size)])
            randomness.seed_everything(self.seed, "training", self.rank, self.step, self.world_size)
            self.log.say(resized_warning(len(ranks), self.world_size, self.total))
        # ranks that have left hand their loader's counts to those that remain
        self._open_loader([rank["loader"] for rank in ranks[self.rank :: self.world_size]])

    def _open_loader(self, states: Sequence[Mapping[str, Any]] = ()) -> None:
        self.loader = self.task.loader(self.step * self.accumulation, self.total * self.accumulation)
        for state in states:
            self.loader.load_state_dict(state)


@cache
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return numbers as a tensor that is copied to a device once: a GPU would be waited for each time."""
    return torch.tensor(values, dtype=dtype, device=device)


@dataclass
class _Requests:
    """Requests to save or to stop. Each rank sends its own with the counts, so all ranks act after the same step."""

    save: bool
    stop: bool


class _CountExchange:
    """Sums each loss's number of items, and the requests, over all ranks while the model computes."""

    def __init__(self, names: Sequence[str], requests: _Requests, device: torch.device) -> None:
        self._names, self._requests, self._device = names, requests, device

    def start(self, counts: Mapping[str, Tensor | int]) -> None:
        """Send this rank's numbers, by loss. The model calls it as soon as it knows them."""
        numbers = [torch.as_tensor(counts[name], dtype=torch.float64).to(self._device) for name in self._names]
        flags = torch.tensor([self._requests.save, self._requests.stop], dtype=torch.float64, device=self._device)
        self._own = torch.stack(numbers)
        self._pending = distributed.start_all_reduce(torch.cat([self._own, flags]), name="counts")

    def finish(self) -> Tensor:
        """Take over the other ranks' requests; return this rank's share of all ranks' items, for each loss.

        A loss's mean over all items is the sum over ranks of (mean * share). If no rank has items, the share is 0.
        """
        sums = self._pending.wait()
        self._requests.save, self._requests.stop = (sums[-2:] > 0).tolist()
        return self._own / sums[:-2].clamp(min=1)
