"""Step: clips per second that this machine's cores can read, from raw and from converted videos."""

from __future__ import annotations

import time
from pathlib import Path

from alpro.checks.gpu.speed import sizes
from alpro.checks.gpu.steps import Context, Figures
from alpro.checks.gpu.videos import cores, decoder, made_loader, shared_videos
from alpro.config import Convert, RandAugment
from alpro.data.copies.convert import convert
from alpro.data.media.read import Decoder
from alpro.data.media.with_torchcodec import check_nvdec
from alpro.errors import ConfigError

BATCHES, SMALL_BATCHES = 40, 6


def feed(context: Context) -> Figures:
    """Read batches of retrieval's training with all cores, with its augmentation."""
    raw = shared_videos(context.work, context.small)
    copies = context.work / "copies"
    settings = Convert(source=str(raw[0].parent), output=str(copies), every=4, short_side=224)
    summary = convert(settings, state=context.work / "state")
    figures: Figures = {
        "decoder": decoder(), "cores": cores(), "raw clips/s": _rate(raw, context),
        "converted clips/s": _rate(sorted(copies.glob("*.mp4")), context),
        "MB raw": round(summary.bytes_before / 1e6, 3), "MB converted": round(summary.bytes_after / 1e6, 3),
        "by NVDEC": _by_nvdec(raw, context),
    }  # fmt: skip
    needed = [figures.get("clips/s") for name, figures in context.earlier.items() if name.startswith("speed retrieval")]
    return figures | ({"a step needs": max(filter(None, needed))} if any(needed) else {})


def _by_nvdec(paths: list[Path], context: Context) -> str:
    """Measure the clips per second that this process decodes on the GPU, or say why it cannot."""
    try:
        check_nvdec()
        return f"{_rate(paths, context, 0, 'nvdec')} clips/s"
    except ConfigError as error:
        return f"none ({error})"


def _rate(paths: list[Path], context: Context, workers: int | None = None, by: Decoder | None = None) -> float:
    """Return clips per second, without the start of the workers: as many as there are cores unless given."""
    kind, model = sizes("retrieval", context.small)
    steps, workers = (SMALL_BATCHES if context.small else BATCHES), cores() if workers is None else workers
    loader = made_loader(
        paths, kind, model, batch=kind.batch, steps=steps, workers=workers, randaugment=RandAugment(), task="retrieval", by=by
    )
    read, began_s = 0, 0.0
    for step, batch in loader:
        if step == 0:
            began_s = time.perf_counter()
        else:
            read += len(batch)
    return round(read / (time.perf_counter() - began_s), 1)
