"""Learning-rate schedule, linear warm-up and linear decay (paper section 4.2), and the steps at which to validate."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

FLOOR = 1e-8  # the released code uses this instead of a rate of zero, so its last update still has a small effect


def learning_rate(position: float, peak: float, warmup_ratio: float, length: int) -> float:
    """Return the rate at a position of the schedule: the number of the optimizer step, from 1 to `length`."""
    warmup = int(warmup_ratio * length)
    rate = peak * position / warmup if position < warmup else peak * (length - position) / max(1, length - warmup)
    return rate if rate > 0 else FLOOR


def validation_steps(length: int, validations: int) -> frozenset[int]:
    """Return the steps after which to validate: evenly spread, including the last one."""
    return frozenset(max(1, round(length * (i + 1) / validations)) for i in range(validations))


@dataclass(frozen=True)
class Schedule:
    """Maps steps to positions in the learning-rate schedule.

    The schedule is defined for the initial world size. After a change of the world size, the remaining samples take more or
    fewer steps, and one step covers less or more of the schedule. Rate and validations continue where they were, and the
    last step is at the schedule's end.
    """

    length: int  # of the schedule, in steps of the initial world size
    total: int  # number of the last step
    start_step: int = 0  # step of the last change of the world size
    start: Fraction = Fraction(0)  # position of that step

    def position(self, step: int) -> float:
        """Return the position of a step: the step itself while the world size has never changed."""
        return float(self._position(step))

    def _position(self, step: int) -> Fraction:
        if step >= self.total:
            return Fraction(self.length)
        return self.start + (step - self.start_step) * (self.length - self.start) / (self.total - self.start_step)

    def resized(self, step: int, total: int) -> Schedule:
        """Return the schedule for a new number of steps, from `step` on."""
        return Schedule(self.length, max(step, total), step, self._position(step))

    def reaches(self, step: int, points: frozenset[int]) -> bool:
        """Return True if one of the points of the schedule falls within this step."""
        before = self._position(step - 1) if step > self.start_step else self.start
        return any(before < point <= self._position(step) for point in points)
