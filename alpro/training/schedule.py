"""The learning rate over the steps: linear warm-up, linear decay (paper section 4.2); and when validation is due."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

FLOOR = 1e-8  # what the released code makes of a rate of zero: its last update still moves a little


def learning_rate(update: float, peak: float, warmup_ratio: float, total: int) -> float:
    """The rate of the optimizer's update number `update`, from 1 to `total`."""
    warmup = int(warmup_ratio * total)
    rate = peak * update / warmup if update < warmup else peak * (total - update) / max(1, total - warmup)
    return rate if rate > 0 else FLOOR


def validation_steps(total: int, validations: int) -> frozenset[int]:
    """The steps after which the validation split is evaluated: evenly spread, the last one included."""
    return frozenset(max(1, round(total * (i + 1) / validations)) for i in range(validations))


@dataclass(frozen=True)
class Course:
    """Where a training's steps lie in its schedule, which is measured in steps of the first number of processes.

    With another number of processes the same samples take more or fewer steps: each then counts for less or more, so that
    rate and validations go on from where they were and end at the last step.
    """

    planned: int  # the schedule's length
    total: int  # the number of the last step
    step: int = 0  # from here on the steps lie evenly
    place: Fraction = Fraction(0)

    def at(self, step: int) -> float:
        """The place of a step; its own number as long as the number of processes never changed."""
        return float(self._at(step))

    def _at(self, step: int) -> Fraction:
        if step >= self.total:
            return Fraction(self.planned)
        return self.place + (step - self.step) * (self.planned - self.place) / (self.total - self.step)

    def changed(self, step: int, total: int) -> Course:
        """From a step on, with another number of steps."""
        return Course(self.planned, max(step, total), step, self._at(step))

    def due(self, step: int, places: frozenset[int]) -> bool:
        """Whether one of the places lies in what a step covers."""
        before = self._at(step - 1) if step > self.step else self.place
        return any(before < place <= self._at(step) for place in places)
