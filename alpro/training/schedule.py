"""The learning rate over the steps: linear warm-up, linear decay (paper section 4.2); and when validation is due."""

from __future__ import annotations

FLOOR = 1e-8  # what the released code makes of a rate of zero: its last update still moves a little


def learning_rate(update: int, peak: float, warmup_ratio: float, total: int) -> float:
    """The rate of the optimizer's update number `update`, from 1 to `total`."""
    warmup = int(warmup_ratio * total)
    rate = peak * update / warmup if update < warmup else peak * (total - update) / max(1, total - warmup)
    return rate if rate > 0 else FLOOR


def validation_steps(total: int, validations: int) -> frozenset[int]:
    """The steps after which the validation split is evaluated: evenly spread, the last one included."""
    return frozenset(max(1, round(total * (i + 1) / validations)) for i in range(validations))
