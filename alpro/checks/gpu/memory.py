"""Step: the memory that `alpro plan` predicts for the four trainings, against what they took."""

from __future__ import annotations

from alpro.checks.gpu.costs import step_costs
from alpro.checks.gpu.made import TRAININGS, made_model
from alpro.checks.gpu.speed import GB, sizes
from alpro.checks.gpu.steps import Context, Failed, Figures, Skipped
from alpro.planning.memory import estimate_memory

# Not counted by `alpro plan`: workspaces of kernels, fragments, temporary results of one layer.
MOST, LEAST = 1.25, 0.6


def memory(context: Context) -> Figures:
    """Compare; on a GPU with the peaks of the steps before, with `small` with what is held on the pretended GPU."""
    figures: Figures = {}
    faults = []
    for name in TRAININGS:
        kind, model = sizes(name, context.small)
        built = made_model(name, kind, model)
        trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in built.parameters()) - trained
        precision = "fp32" if context.small else "bf16"
        planned = estimate_memory(
            name, model, trained=trained, frozen=frozen, frames=kind.frames, text_tokens=kind.tokens, batch=kind.batch,
            checkpointing="none", precision=precision,
        ).peak  # fmt: skip
        if context.small:
            taken: float = step_costs(name, precision).peak
        elif (peak := context.earlier.get(f"speed {name}", {}).get("peak GB")) is not None:
            taken = peak * GB
        else:
            continue
        unit, scale = ("MB", 1e6) if context.small else ("GB", GB)
        figures[name] = f"planned {planned / scale:.2f} {unit}, taken {taken / scale:.2f} {unit} ({taken / planned:.2f})"
        if not LEAST <= taken / planned <= MOST:
            faults.append(f"{name}: {taken / planned:.2f} times the plan")
    if not figures:
        raise Skipped("no training was measured")
    if faults:
        raise Failed("; ".join(faults), figures)
    return figures
