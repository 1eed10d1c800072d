"""Steps: the numbers of the released code (tests/goldens) on this device, in fp32 and in bf16; gradients against float64."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from alpro.checks.gpu.made import SMALL, SMALL_MODEL, TRAININGS, Kind, made_batch, made_model, neighbours
from alpro.checks.gpu.steps import Context, Failed, Figures, Skipped
from alpro.config import Model
from alpro.models import normalize

# Cases that `--small` compares: both encoders, the multimodal encoder, and the entity prompts' formulas.
SMALL_CASES = ("b_text_encoder", "c_retrieval_inference", "f_soft_label_unit", "l_image_norm")
HALF_CASES = (
    "a_timesformer_T4", "b_text_encoder", "c_retrieval_inference", "d_retrieval_train", "e_qa_T4", "f_pretrain_video",
    "g_prompts", "g_prompter",
)  # fmt: skip
# bf16 keeps 8 significant bits, so one rounding is off by up to 2**-9. There are some 50 roundings on the way to an output; as
# a random walk, its error is about 2**-9 * sqrt(50) = 0.014 of its norm. Two cores gave 0.009 at most, and 0.043 for scores,
# which are small differences of large sums. A wrong mask is off by more than ten times that.
HALF_TOLERANCE, SCORES_TOLERANCE = 0.02, 0.1
SCORES = ("VTM", "VTC scores")
GRADIENT_TOLERANCE = 1e-4  # relative to the norm, fp32 against float64


def _goldens(context: Context) -> Any:
    """Return the module that compares goldens. Raises Skipped without a checkout's tests."""
    if not (context.root / "tests/goldens").is_dir():
        raise Skipped(f"{context.root} has no tests/goldens; copy the folder tests beside alpro")
    if str(context.root) not in sys.path:
        sys.path.insert(0, str(context.root))
    return importlib.import_module("tests.parity")


def parity_fp32(context: Context) -> Figures:
    """Compare every golden in fp32, with TF32 off."""
    parity = _goldens(context)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    names = [name for name in parity.CASES if not context.small or name in SMALL_CASES]
    quantities, worst, faults = 0, 0.0, []
    for name in names:
        _, differences = parity.worst(name, context.device)
        quantities += len(differences)
        worst = max([worst, *(d.error / d.tolerance for d in differences if d.tolerance)])
        faults += [f"{name}: {d.what}" for d in differences if not d.error <= d.tolerance][:1]
    figures: Figures = {"goldens": len(names), "numbers": quantities, "largest error / tolerance": float(f"{worst:.2g}")}
    if faults:
        raise Failed(f"{len(faults)} goldens differ: {'; '.join(faults[:5])}", figures)
    return figures


def parity_bf16(context: Context) -> Figures:
    """Compare outputs and losses of the goldens under bf16 autocast."""
    parity = _goldens(context)
    names = [name for name in HALF_CASES if not context.small or name in SMALL_CASES]
    compared, worst, faults = 0, {HALF_TOLERANCE: 0.0, SCORES_TOLERANCE: 0.0}, []
    for name in names:
        _, differences = parity.worst(name, context.device, "bf16")
        outputs = [d for d in differences if d.rms is not None]
        compared += len(outputs)
        for d in outputs:
            tolerance = SCORES_TOLERANCE if d.what.startswith(SCORES) else HALF_TOLERANCE
            worst[tolerance] = max(worst[tolerance], d.rms)
            if not d.rms <= tolerance:
                faults.append(f"{name}: {d.what} {d.rms:.2g}")
    figures: Figures = {"goldens": len(names), "outputs": compared}
    figures |= {f"largest error (tolerance {tolerance})": float(f"{error:.2g}") for tolerance, error in worst.items()}
    if faults:
        raise Failed(f"{len(faults)} goldens differ: {'; '.join(faults[:5])}", figures)
    return figures


def gradients(context: Context) -> Figures:
    """Compare the gradients of the four trainings in fp32 on this device with those in float64 on the CPU."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    figures: Figures = {}
    faults = []
    for name, paper in TRAININGS.items():
        # the paper's widths with fewer layers
        model = SMALL_MODEL if context.small else Model(vision_layers=2, text_layers=2, fusion_layers=2)
        kind = SMALL[name] if context.small else replace(paper, batch=2)
        model = model.model_copy(update={"dropout": 0.0, "drop_path": 0.0})
        exact, ours = (
            _gradients(name, kind, model, device, dtype)
            for device, dtype in ((torch.device("cpu"), torch.float64), (context.device, torch.float32))
        )
        whole = torch.stack([g.norm() for g in exact.values()]).norm()
        error = torch.stack([(ours[key].double() - g).norm() for key, g in exact.items()]).norm() / whole
        figures[name] = f"{float(error):.1e} of {len(exact)} gradients"
        if exact.keys() != ours.keys() or not error <= GRADIENT_TOLERANCE:
            faults.append(f"{name}: {float(error):.1e}")
    figures["tolerance"] = GRADIENT_TOLERANCE
    if faults:
        raise Failed(f"gradients differ: {'; '.join(faults)}", figures)
    return figures


def _gradients(name: str, kind: Kind, model: Model, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the gradients of one step in training mode, on the CPU. VTM's negatives are each row's neighbour."""
    built = made_model(name, kind, model).to(device, dtype).train()
    batch = made_batch(kind.batch, kind, model, padded=True).to(device)
    batch = replace(batch, pixels=normalize(batch.pixels).to(dtype))
    built(batch, **neighbours(kind, device)).total.backward()
    return {key: p.grad.cpu() for key, p in built.named_parameters() if p.grad is not None}
