"""The one engine of all four trainings: micro-steps, one gradient exchange, clip, schedule, step; validation, snapshots, log.

A *task* says how its model, data and losses are made and how it is evaluated; the engine knows nothing of video or text.
N processes of batch B do the mathematics of one with N x B: each loss is a mean over its items (clips, masked tokens, kept
crops), so a rank's share of it is weighted by its count of items before the gradients are averaged.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alpro import distributed
from alpro.config import Training
from alpro.distributed import agreed
from alpro.errors import ConfigError, TrainingError, nearest
from alpro.launch import heartbeat
from alpro.objectives.precision import autocast, widened
from alpro.system.allocator import keep_freed_memory
from alpro.training import randomness, resume
from alpro.training.finite import _spoil
from alpro.training.flops import peak_flops
from alpro.training.log import Clock, Log
from alpro.training.optim import AdamW
from alpro.training.samples import SampleLog
from alpro.training.schedule import Course, learning_rate, validation_steps
from alpro.training.signals import stop_on_signal
from alpro.training.snapshots import Memory, Store
from alpro.training.task import Best, Loader, Losses, Task


class Engine:
    """One training; `run` does it."""

    course: Course
    total: int  # the number of the last step
    loader: Loader

    def __init__(
        self,
        task: Task,
        settings: Training,
        *,
        seed: int,
        device: torch.device | None = None,
        store: Store | None = None,
        log: Log | None = None,
        samples: SampleLog | None = None,
    ) -> None:
        """`store`, `samples` and what `log` shows are the first rank's alone. Raises ConfigError for an unknown `select_by`."""
        self.task, self.settings, self.seed, self.store = task, settings, seed, store
        self.device = device or torch.device("cpu")
        self.samples = samples
        self.rank, self.world = distributed.rank(), distributed.size()
        self.model = task.model.to(self.device)
        self.named = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.parameters = list(self.named.values())
        self.optimizer = AdamW(self.parameters, settings.learning_rate, settings.betas, settings.epsilon, settings.weight_decay)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "fp16")
        self.accumulation = settings.accumulation
        self.follow([(0, self.world)])
        if self.total < 1:
            raise ConfigError(f"{settings.epochs} epochs have fewer micro-steps than accumulation {self.accumulation}")
        self.metric, self.sign = settings.select_by.removeprefix("-"), -1 if settings.select_by.startswith("-") else 1
        if self.metric not in task.metrics:
            known = ", ".join(sorted(task.metrics))
            hint = nearest(self.metric, task.metrics)
            raise ConfigError(f"select_by {settings.select_by!r}: no such metric{hint}; there are {known}")
        self.step = 0
        self.best: Best | None = None
        self.validated = 0  # the last step that was
        self.pending: list[tuple[int, list[str]]] = []  # this rank's samples of the steps since the last commit
        self.memory: Memory | None = None  # of an elastic training
        self.on_commit: Callable[[], None] | None = None
        self.commit_every = 0  # steps
        self.window = torch.zeros(len(task.losses) + 1, dtype=torch.float64, device=self.device)  # sums since the last line
        self.window_steps = 0
        self.log = log or Log()
        self.clock = Clock()
        peak = peak_flops(self.device, settings.precision)
        self.clip_share = task.flops_per_clip / peak if peak else None  # seconds
        self.saved_s = time.monotonic()

    # --- the training -----------------------------------------------------------------------------------------

    def run(self) -> Best:
        """Train to the end, from the newest snapshot if there is one; the model then has the best weights.

        Raises TrainingError, on all ranks, for numbers that are not finite, a full disk, or a stop that was asked for.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
            randomness.sum_in_one_order()
        self.rank, self.world = distributed.rank(), distributed.size()
        # before anything is drawn, so that a first run and a resumed one start alike
        randomness.seed_everything(self.seed, "training", self.rank)
        loader_states = resume.resume(self)
        loader = self.loader = self.task.loader(self.step * self.accumulation, self.total * self.accumulation)
        for state in loader_states:
            loader.load_state_dict(state)
        self.model.train()
        if self.memory is not None:
            self._commit(loader)  # on all alike: who has just joined holds nothing yet, and the next loss may come at once
        with stop_on_signal(), self.log.running(self.step, self.total):
            batches = iter(loader)
            while self.step < self.total:
                wanted = self._step(batches)
                if self.course.due(self.step, self.due):
                    self._validate()
                if wanted.save or wanted.stop:
                    self._save(loader)
                elif self.commit_every and self.step % self.commit_every == 0:
                    self._commit(loader)
                if wanted.stop:
                    raise TrainingError(f"stopped at step {self.step} of {self.total}, as asked; {self._last_good()}")
                if self.on_commit is not None and not self.pending:
                    self.on_commit()
            if self.best is None or self.validated < self.step:  # fewer processes left no step to do
                self._validate()
            self._committed(resume.facts(self, loader))
        assert self.best is not None
        if "best" not in self.settings.keep:
            return self._last()
        if "last" in self.settings.keep:
            self._keep("last")
        self._take_best()
        return self.best

    def follow(self, worlds: Sequence[tuple[int, int]]) -> None:
        """Plan steps and schedule for the numbers of processes so far, (first step, processes) each."""
        self.worlds = list(worlds)
        for count in range(1, len(self.worlds) + 1):
            micro_steps = self.task.plan_for([(step * self.accumulation, world) for step, world in self.worlds[:count]])
            total = min(micro_steps // self.accumulation, self.settings.max_steps or micro_steps)
            self.course = Course(total, total) if count == 1 else self.course.changed(self.worlds[count - 1][0], total)
        self.total = self.course.total
        self.due = validation_steps(self.course.planned, self.settings.validations)

    def _step(self, batches: Iterator[tuple[int, Any]]) -> _Wanted:
        """One optimizer step: micro-steps, exchange, clip, update."""
        step = self.step + 1
        for group in self.optimizer.param_groups:
            place, settings = self.course.at(step), self.settings
            group["lr"] = learning_rate(place, settings.learning_rate, settings.warmup_ratio, self.course.planned)
        self.optimizer.zero_grad(set_to_none=True)
        wanted = _Wanted(self.rank == 0 and self._save_is_due(), heartbeat.stop_asked())
        done: list[_MicroStep] = []
        for _ in range(self.accumulation):
            heartbeat.beat("reading", step, self.total)
            with self.clock.waiting():
                _, batch = next(batches)
            self.clock.clips += len(batch)
            heartbeat.beat("computing", step, self.total)
            part = self._backward(batch.to(self.device), wanted)
            done.append(_MicroStep(batch.ids, part, distributed.gathered_finite()))
        heartbeat.beat("exchange", step, self.total)
        norm, skipped = self._exchange_and_clip(step, done)
        if not skipped:
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step = step
        self.pending.append((step, [name for micro in done for name in micro.ids]))
        self.window += torch.stack([micro.parts for micro in done]).sum(0)
        self.window_steps += 1
        if step % self.settings.log_every == 0 or step == self.total:
            self._write_line(norm)
        self.log.advance(step)
        return wanted

    def _backward(self, batch: Any, wanted: _Wanted) -> Tensor:
        """Gradients of one micro-step; returns this rank's share of the world's mean loss and its parts, (1 + parts,)."""
        with autocast(self.device, self.settings.precision):
            output: Losses = self.model(batch)
        names = self.task.losses
        means = torch.stack([widened(output.losses[name]) for name in names])
        weights = means.new_tensor([output.weights.get(name, 1.0) for name in names])
        scales = torch.ones_like(means)
        if self.world > 1:
            counts = torch.stack([torch.as_tensor(output.counts[name], dtype=torch.float64).to(self.device) for name in names])
            asked = torch.tensor([wanted.save, wanted.stop], dtype=torch.float64, device=self.device)
            everyone = distributed.all_reduce(torch.cat([counts, asked]), "sum", name="counts")
            # mean over ranks of (mean_r * count_r * world / count) = mean over all items; no items anywhere: nothing
            if self.settings.average == "items":
                scales = (counts * self.world / everyone[:-2].clamp(min=1)).to(means.dtype)
            wanted.save, wanted.stop = (everyone[-2:] > 0).tolist()
        divisor = self.accumulation if self.settings.accumulate == "mean" else 1
        self.scaler.scale((means * weights * scales).sum() / divisor).backward()
        shares = (means * scales).detach().double() / self.accumulation
        return torch.cat([(shares * weights.double()).sum()[None], shares])

    def _exchange_and_clip(self, step: int, done: list[_MicroStep]) -> tuple[float, bool]:
        """Exchange, and clip by the whole gradient's norm; returns it, and whether fp16's scale was too large for this step."""
        losses = torch.stack([micro.parts for micro in done])
        if self.world > 1 and not self.scaler.is_enabled():
            _spoil(self.parameters, losses)
        own = [p.grad for p in self.parameters if p.grad is not None]  # stay as they are: the exchange makes new ones
        distributed.exchange_gradients(self.parameters, self.settings.compression)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.get_total_norm(gradients)
        value = norm.item()
        bad_loss = not math.isfinite(losses.sum().item())
        if self.scaler.is_enabled():
            bad_loss = distributed.any_true(bad_loss)
        if math.isfinite(value) and not bad_loss:
            if value + 1e-6 > self.settings.grad_clip:  # torch would multiply every gradient by 1; the 1e-6 is its own
                torch.nn.utils.clip_grads_with_norm_(self.parameters, self.settings.grad_clip, norm)
            return value, False
        if self.scaler.is_enabled() and not bad_loss and self.scaler.get_scale() > 1:
            return 0.0, True
        raise self._not_finite(step, done, all(bool(gradient.isfinite().all()) for gradient in own))

    def _not_finite(self, step: int, done: list[_MicroStep], own_finite: bool) -> TrainingError:
        """What to raise on all ranks; `own_finite`: this rank's gradient was, before the exchange."""
        found = []
        for micro in done:
            names = [name for name, loss in zip(self.task.losses, micro.parts[1:], strict=True) if not loss.isfinite()]
            # a loss over all ranks' rows is spoilt everywhere by the one rank whose rows are not finite, so those tell most
            found.append((3 if not micro.rows_finite else 2 if names else 0 if own_finite else 1, self.rank, names, micro.ids))
        everyone = [micro for rank in distributed.gather_objects(found) for micro in rank]
        most = max(telling for telling, *_ in everyone)
        where = "; ".join(
            f"rank {rank}: {', '.join(names) or 'gradient'}; batch {', '.join(ids)}"
            for telling, rank, names, ids in everyone
            if telling == most
        )
        if not most:
            where = f"each rank's gradient is, their mean or its norm is not; {where}"
        return TrainingError(f"step {step}: loss or gradient is not finite ({where}); {self._last_good()}")

    # --- validation -------------------------------------------------------------------------------------------

    def _validate(self) -> None:
        heartbeat.beat("validation", self.step, self.total)
        with self.clock.paused(), randomness.aside(self.seed, "validation", self.rank), torch.no_grad():
            self.model.eval()
            metrics = self.task.validate()
            self.model.train()
        if bad := [name for name, value in metrics.items() if not math.isfinite(value)]:
            raise TrainingError(f"step {self.step}: validation gives no finite {', '.join(bad)}; {self._last_good()}")
        self.log.write({"step": self.step, "epoch": self._epoch(), "split": "val", **metrics})
        self.validated = self.step
        if "every" in self.settings.keep:
            self._keep(f"step-{self.step:09d}")
        value = metrics[self.metric]
        if self.best is not None and self.sign * value <= self.sign * self.best.value:
            return
        self.best = Best(self.step, value, metrics)
        with agreed("the best weights"):
            if self.store is not None:
                self.store.save_best(self.step, resume.weights(self))
            elif self.rank == 0:
                self.best.weights = {name: tensor.detach().clone() for name, tensor in resume.weights(self).items()}

    def _keep(self, name: str) -> None:
        """Put the weights aside for the end, where there is a store."""
        with agreed(f"the checkpoint {name}"):
            if self.store is not None:
                self.store.keep(name, self.step, resume.weights(self))

    def _last(self) -> Best:
        """The last step and its validation, of which the history has a row."""
        row = next(row for row in reversed(self.log.history) if row["split"] == "val")
        metrics = {name: value for name, value in row.items() if name in self.task.metrics}
        return Best(row["step"], metrics[self.metric], metrics)

    def kept(self) -> list[str]:
        """The names of all that was put aside."""
        steps = sorted({row["step"] for row in self.log.history if row["split"] == "val"})
        every = [f"step-{step:09d}" for step in steps] if "every" in self.settings.keep else []
        return [*every, "last"] if {"best", "last"} <= set(self.settings.keep) else every

    def _take_best(self) -> None:
        """Give the model the best weights, on every rank."""
        assert self.best is not None
        with agreed("the best weights"):
            if self.rank == 0:
                resume.put(self, self.store.best(self.best.step).tensors("weights") if self.store else self.best.weights or {})
        distributed.broadcast_state(self.model)

    # --- snapshots --------------------------------------------------------------------------------------------

    def _save(self, loader: Loader) -> None:
        """Write a snapshot, on which all ranks agreed to be at this step."""
        heartbeat.beat("saving", self.step, self.total)
        facts = resume.facts(self, loader)
        with self.clock.paused(), agreed("the resume state"):
            if self.store is not None:
                self.store.save(self.step, facts, weights=resume.weights(self), moments=resume.moments(self))
        self._committed(facts)
        self.saved_s = time.monotonic()

    def _commit(self, loader: Loader) -> None:
        """Keep the state in every process, for when one of them is lost."""
        with self.clock.paused():
            self._committed(resume.facts(self, loader))

    def _committed(self, facts: dict[str, Any]) -> None:
        if self.memory is not None:
            self.memory.save(self.step, facts, weights=resume.weights(self), moments=resume.moments(self))
        self.pending = []
        with agreed("the sample log"):
            if self.samples is not None:
                self.samples.extend(facts["samples"])

    def _save_is_due(self) -> bool:
        return self.store is not None and time.monotonic() - self.saved_s >= self.settings.save_every_s

    def _last_good(self) -> str:
        """Where a training that stops can be taken up; the first rank knows."""
        last = self.store.last() if self.store is not None else None
        place = distributed.broadcast_object(str(last) if last else None)
        return f"the last good state is {place}; run the same command again to go on" if place else "no state was saved yet"

    # --- what one sees ----------------------------------------------------------------------------------------

    def _write_line(self, norm: float) -> None:
        """A row of the history: means over the steps since the last one, the same on every rank and in every run."""
        counts = torch.tensor(self.loader.counts, dtype=torch.float64, device=self.device)
        everyone = distributed.all_reduce(torch.cat([self.window, counts]), "mean", name="window")
        means = (everyone[:-2] / self.window_steps).tolist()
        left_out, read = (round(count * self.world) for count in everyone[-2:].tolist())
        self.window.zero_()
        self.window_steps = 0
        rate = self.optimizer.param_groups[0]["lr"]
        names = ("loss", *self.task.losses)
        row = {"step": self.step, "epoch": self._epoch(), "split": "train"} | dict(zip(names, means, strict=True))
        if left_out:  # so far, by all ranks
            row["left_out"] = left_out
        self.log.write({**row, "lr": rate, "grad_norm": norm}, self.clock.lap(self.world, self.device, self.clip_share))
        self.loader.check_unreadable(left_out, read)

    def _epoch(self) -> int:
        """The epoch, from 0, that the last step belonged to."""
        return self.task.epoch_of(self.step * self.accumulation - 1)


@dataclass(frozen=True)
class _MicroStep:
    """What this rank knows of a micro-step that is done; on the device, as looking at it would wait for it."""

    ids: list[str]
    parts: Tensor  # (1 + parts,), as `_backward` returns it
    rows_finite: Tensor  # of this rank's rows that all ranks see, () bool


@dataclass
class _Wanted:
    """What was asked for, and what all ranks, told so in the exchange of counts, do after this step."""

    save: bool
    stop: bool
