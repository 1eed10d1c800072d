"""Steps: the paths that only a GPU takes, or takes differently: copies, half precision, attention, optimizer."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from alpro.checks.gpu.made import SMALL, SMALL_MODEL, TRAININGS, MadeTask, made_batch, made_model, made_settings, neighbours
from alpro.checks.gpu.steps import Context, Failed, Figures, Skipped
from alpro.config import Model
from alpro.data.batches.datasets import Collated
from alpro.models.bert import additive
from alpro.objectives.precision import autocast
from alpro.training.engine import Engine
from alpro.training.optim import AdamW

HALF_LOSS = 0.02  # relative difference of a loss in half precision: 8 significant bits
ATTENTION = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # largest difference from float64, of values around 1
BACKENDS = {
    "math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
}  # fmt: skip
OPTIMIZER_TOLERANCE = 5e-6  # of values around 1, after five roundings


def pinned_copies(context: Context) -> Figures:
    """Copy a batch from page-locked memory while the GPU computes, and back."""
    kind = TRAININGS["retrieval"]
    batch = Collated(made_batch(kind.batch, kind, Model()), []).pin_memory().batch
    assert batch is not None
    x = torch.randn(8192, 8192, device=context.device)
    torch.cuda.synchronize()
    start, end, copied = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    stream = torch.cuda.Stream()
    start.record()
    for _ in range(5):
        x = x @ x / 8192
    with torch.cuda.stream(stream):
        there = batch.to(context.device)
        copied.record()
    end.record()
    torch.cuda.synchronize()
    figures: Figures = {
        "MB": round(batch.pixels.nbytes / 1e6, 1),
        "copied after ms": round(start.elapsed_time(copied), 2),
        "products took ms": round(start.elapsed_time(end), 2),
    }
    if not batch.pixels.is_pinned():
        raise Failed("the loader's batches are not page-locked", figures)
    if not torch.equal(there.pixels.cpu(), batch.pixels):
        raise Failed("the copy differs from the batch", figures)
    return figures


def half_precision(context: Context) -> Figures:
    """Compare the losses of the four trainings under bf16 autocast with fp32; weights and gradients must stay in fp32."""
    figures: Figures = {}
    faults = []
    for name in TRAININGS:
        kind, model = SMALL[name], SMALL_MODEL.model_copy(update={"dropout": 0.0, "drop_path": 0.0})
        built = made_model(name, kind, model).to(context.device).train()
        batch = made_batch(kind.batch, kind, model, padded=True).to(context.device)
        losses = []
        for precision in ("fp32", "bf16"):
            built.zero_grad()
            with autocast(context.device, precision):
                losses.append(built(batch, **neighbours(kind, context.device)).total)
            losses[-1].backward()
        types = {str(p.dtype) for p in built.parameters()} | {
            str(p.grad.dtype) for p in built.parameters() if p.grad is not None
        }
        error = abs(losses[1].item() / losses[0].item() - 1)
        figures[name] = f"loss {losses[0].item():.4f}, in bf16 off by {error:.1e}"
        if error > HALF_LOSS or types != {"torch.float32"} or losses[1].dtype != torch.float32:
            faults.append(f"{name}: off by {error:.2g}, types {', '.join(sorted(types))}")
    if faults:
        raise Failed(f"bf16 differs: {'; '.join(faults)}", figures)
    return figures


def grad_scaler(context: Context) -> Figures:
    """Train in fp16 from a scale that overflows: the step must be skipped and the scale reduced, then training goes on."""
    kind = SMALL["qa"]
    task = MadeTask("qa", kind, SMALL_MODEL, [made_batch(kind.batch, kind, SMALL_MODEL)] * 24)
    before = {key: value.clone() for key, value in task.model.state_dict().items()}
    engine = Engine(task, made_settings(kind.batch, precision="fp16"), seed=0, device=context.device)
    engine.scaler = torch.amp.GradScaler(context.device.type, init_scale=2.0**40)
    scales: list[float] = []
    task.at_step = lambda step: scales.append(engine.scaler.get_scale())
    engine.run()
    after = task.model.state_dict()
    changed = sum(not torch.equal(value, after[key].cpu()) for key, value in before.items())
    figures: Figures = {"scale at first": scales[0], "at last": scales[-1], "changed tensors": changed}
    if not scales[-1] < scales[0] or not changed or not all(value.isfinite().all() for value in after.values()):
        raise Failed("the scale was not reduced, no step was taken, or weights are not finite", figures)
    return figures


def checkpointing(context: Context) -> Figures:
    """Compare gradients with and without gradient checkpointing, and the memory of their forward passes."""
    kind, model = replace(SMALL["qa"], frames=4), SMALL_MODEL.model_copy(update={"vision_layers": 4})
    batch = made_batch(kind.batch, kind, model).to(context.device)
    results = []
    for how in ("none", "exact"):
        built = made_model("qa", kind, model, how).to(context.device).train()
        torch.manual_seed(1)
        saved: dict[int, int] = {}

        def pack(tensor: Tensor, saved: dict[int, int] = saved) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            total = built(batch).total
        held = sum(saved.values())
        total.backward()
        results.append((held, {key: p.grad for key, p in built.named_parameters() if p.grad is not None}))
    (most, plain), (least, recomputed) = results
    error = max(float((recomputed[key] - g).abs().max()) for key, g in plain.items())
    figures: Figures = {"largest difference": error, "kB held": round(most / 1e3), "with checkpointing": round(least / 1e3)}
    if error > 1e-5 or least >= most:
        raise Failed("checkpointing changes gradients, or saves no memory", figures)
    return figures


def attention(context: Context) -> Figures:
    """Compare each attention backend with float64, with padding masked, at the sizes of the multimodal encoder."""
    heads, tokens, width = (2, 29, 16) if context.small else (12, 237, 64)
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, tokens, width, generator=g, dtype=torch.float64) for _ in range(3))
    kept = torch.ones(2, tokens, dtype=torch.long)
    kept[1, tokens // 2 :] = 0
    want = F.scaled_dot_product_attention(q, k, v, attn_mask=additive(kept, torch.float64))
    plain = F.scaled_dot_product_attention(q, k, v)
    figures: Figures = {}
    faults = []
    for name, backend in BACKENDS.items():
        for dtype, tolerance in ATTENTION.items():
            for masked in (False, True):
                label = f"{name} {str(dtype).removeprefix('torch.')}{' masked' if masked else ''}"
                mask = additive(kept, dtype).to(context.device) if masked else None
                try:
                    with sdpa_kernel(backend):
                        got = F.scaled_dot_product_attention(*_cast(q, k, v, context.device, dtype), attn_mask=mask)
                except RuntimeError:  # this backend does not take these inputs; torch then chooses another one
                    continue
                error = float((got.cpu().double() - (want if masked else plain)).abs().max())
                figures[label] = float(f"{error:.1e}")
                if not error <= tolerance:
                    faults.append(f"{label} {error:.1e}")
    if faults:
        raise Failed(f"attention differs from float64: {', '.join(faults)}", figures)
    if not figures:
        raise Skipped("no attention backend takes these inputs")
    return figures


def _cast(q: Tensor, k: Tensor, v: Tensor, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    return q.to(device, dtype), k.to(device, dtype), v.to(device, dtype)


def optimizer(context: Context) -> Figures:
    """Compare five steps of AdamW on the device with the released formula in float64."""
    lr, (beta1, beta2), eps, decay = 1e-2, (0.9, 0.98), 1e-6, 0.01
    g = torch.Generator().manual_seed(0)
    want = torch.randn(1000, generator=g, dtype=torch.float64)
    p = torch.nn.Parameter(want.to(context.device, torch.float32))
    ours = AdamW([p], lr, (beta1, beta2), eps, decay)
    m = v = torch.zeros_like(want)
    for step in range(1, 6):
        gradient = torch.randn(1000, generator=g, dtype=torch.float64) * 10.0**-step
        p.grad = gradient.to(context.device, torch.float32)
        ours.step()
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        rate = lr * math.sqrt(1 - beta2**step) / (1 - beta1**step)
        want = (want - rate * m / (v.sqrt() + eps)) * (1 - lr * decay)
    error = float((p.detach().cpu().double() - want).abs().max())
    figures: Figures = {"steps": 5, "largest difference": float(f"{error:.1e}"), "tolerance": OPTIMIZER_TOLERANCE}
    if not error <= OPTIMIZER_TOLERANCE:
        raise Failed("AdamW differs from the released formula", figures)
    return figures
