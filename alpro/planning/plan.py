"""What the trainings of a recipe will take, before any of them is started: `alpro plan`.

Steps follow from the samples, batch and world as in training; FLOPs from the model's sizes (flops.py), memory from the
model's parameters and what backward keeps (memory.py). Hours are FLOPs over what the GPUs do: their peak times an *assumed*
utilisation, so they are as good as that assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpro.config import CorpusTraining, Params, Training
from alpro.data.annotations.read import read_answers, read_corpus, read_dataset
from alpro.data.annotations.records import Record
from alpro.data.batches.sampler import BatchPlan
from alpro.errors import ConfigError, nearest
from alpro.models import build_model
from alpro.planning.memory import Memory, memory
from alpro.planning.published import ANSWERS, SIZES, Size
from alpro.training.flops import GPUS, recomputed_flops, training_flops, validation_flops
from alpro.training.snapshots import KEEP

UTILISATION = {"half": 0.35, "single": 0.6}  # assumed share of the peak; `--mfu` says another


@dataclass(frozen=True)
class Device:
    """One of the GPUs: FLOP/s it is assumed to do in 16 bits and in fp32, and the words for how that was assumed."""

    name: str
    half: float
    single: float
    memory_gb: float | None
    assumption: str

    def speed(self, precision: str) -> float:
        """FLOP/s in a precision."""
        return self.single if precision == "fp32" else self.half


@dataclass(frozen=True)
class TrainingPlan:
    """One training. FLOPs are of all processes together, memory is of one; disk and memory in bytes."""

    name: str
    samples: dict[str, int]  # by corpus or data set
    counted: bool  # on the files; otherwise published numbers
    epochs: int
    batch: int  # samples of all processes in an optimizer step
    steps: int  # optimizer steps
    parameters: int
    trained: int
    flops: float
    validation_flops: float | None  # None: the validation split's size is not known
    recomputed_flops: float  # by gradient checkpointing
    precision: str
    memory: Memory
    hours: float
    checkpoint_bytes: float
    resume_bytes: float  # two snapshots and their best weights, and the one that is being written

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "memory": {**asdict(self.memory), "peak": self.memory.peak}}


def device_of(gpu: str | None, tflops: float | None = None, mfu: float | None = None) -> Device:
    """The GPU of a name (h100, a100, ...), or one that does so many TFLOP/s at its peak, at an assumed utilisation.

    Raises ConfigError for an unknown name and for shares outside (0, 1].
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"--mfu {mfu:g}: a share of the peak is over 0 and at most 1")
    half, single = (mfu or UTILISATION[kind] for kind in ("half", "single"))
    if tflops is not None:
        if tflops <= 0:
            raise ConfigError(f"--tflops {tflops:g}: must be positive")
        share = mfu or UTILISATION["half"]
        speed = tflops * 1e12 * share
        return Device(f"{tflops:g} TFLOP/s", speed, speed, None, f"{share:.0%} of {tflops:g} TFLOP/s in any precision")
    known = {name.lower(): (name, of) for name, of in GPUS.items()}
    if gpu is None or gpu.lower() not in known:
        raise ConfigError(f"--gpu {gpu}: known are {', '.join(known)}{nearest(str(gpu).lower(), known)}; or give --tflops")
    name, of = known[gpu.lower()]
    assumed = f"{half:.0%} of {of.half / 1e12:g} TFLOP/s in 16 bits, {single:.0%} of {of.single / 1e12:g} in fp32"
    return Device(name, of.half * half, of.single * single, of.memory_gb, assumed)


def make_plan(params: Params, gpus: int, device: Device) -> list[TrainingPlan]:
    """The plans of the prompter's training, the pre-training and every fine-tuning, on so many GPUs, a process on each.

    Raises DataError for annotations that are there and can't be read, ConfigError for a data set of unknown size.
    """
    plans = [_corpus_plan(params, name, gpus, device) for name in ("prompter", "pretrain")]
    return plans + [_dataset_plan(params, name, gpus, device) for name in params.datasets]


def _corpus_plan(params: Params, name: str, gpus: int, device: Device) -> TrainingPlan:
    settings: CorpusTraining = params.prompter if name == "prompter" else params.pretrain
    there = all(Path(file).exists() for c in settings.corpora for file in _files(params, c))
    sizes = {c: _size(read_corpus(params.corpora[c]), one=True) if there else _published(c, "train") for c in settings.corpora}
    val: Size | None = None
    if there:
        val = _size([record for c in settings.corpora for record in read_corpus(params.corpora[c], "val")], one=True)
    entities = params.entities.number if name == "pretrain" and params.pem else 0
    return _plan(params, name, name, settings, sizes, val, there, gpus, device, num_entities=entities)


def _dataset_plan(params: Params, name: str, gpus: int, device: Device) -> TrainingPlan:
    dataset = params.datasets[name]
    there = Path(dataset.annotations).exists() and Path(dataset.videos).exists()
    train = _size(read_dataset(dataset, "train")) if there else _published(name, "train")
    val = _size(read_dataset(dataset, "val")) if there else SIZES.get((name, "val"))
    answers = {}
    if dataset.task == "qa":
        answers = {"num_answers": len(read_answers(dataset)) if there else ANSWERS[name]}
    kind = dataset.task
    return _plan(params, f"finetune/{name}", kind, params.finetune[name], {name: train}, val, there, gpus, device, **answers)


def _plan(
    params: Params,
    name: str,
    kind: str,
    settings: Training,
    sizes: dict[str, Size],
    val: Size | None,
    there: bool,
    gpus: int,
    device: Device,
    **heads: int,
) -> TrainingPlan:
    model, frames, tokens = params.model, settings.num_frames, settings.max_text_tokens
    samples = {corpus: size.texts for corpus, size in sizes.items()}
    batches = BatchPlan(samples, settings.batch_size, gpus, epochs=settings.epochs, seed=0)
    steps = batches.total_steps // settings.accumulation
    steps = min(steps, settings.max_steps or steps)
    batch = settings.batch_size * gpus * settings.accumulation
    checkpointing = settings.gradient_checkpointing
    arguments: dict[str, Any] = {"num_entities": 0} if kind == "prompter" else dict(heads)
    built = build_model(kind, num_frames=frames, config=model, gradient_checkpointing=checkpointing, seed=None, **arguments)
    parameters = sum(p.numel() for p in built.parameters())
    trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
    flops = training_flops(kind, model, frames, tokens) * batch * steps
    again = recomputed_flops(kind, model, frames) * batch * steps if checkpointing != "none" else 0.0
    validating = None
    if val is not None:
        validating = validation_flops(kind, model, frames, tokens, val.clips, val.texts) * settings.validations
    return TrainingPlan(
        name=name,
        samples=samples,
        counted=there,
        epochs=settings.epochs,
        batch=batch,
        steps=steps,
        parameters=parameters,
        trained=trained,
        flops=flops,
        validation_flops=validating,
        recomputed_flops=again,
        precision=settings.precision,
        memory=memory(
            kind,
            model,
            trained=trained,
            frozen=parameters - trained,
            frames=frames,
            text_tokens=tokens,
            batch=settings.batch_size,
            checkpointing=checkpointing,
            precision=settings.precision,
        ),
        hours=(flops + again + (validating or 0.0)) / (gpus * device.speed(settings.precision)) / 3600,
        checkpoint_bytes=4.0 * parameters,
        resume_bytes=(KEEP + 1) * 12.0 * trained + KEEP * 4.0 * trained,
    )


def data_bytes(params: Params) -> dict[str, int]:
    """The size on disk of every folder of videos or images that is there."""
    folders = {corpus.root for corpus in params.corpora.values()} | {dataset.videos for dataset in params.datasets.values()}
    present = [Path(folder) for folder in sorted(folders) if Path(folder).is_dir()]
    return {str(folder): sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in present}


def _size(records: Sequence[Record], one: bool = False) -> Size:
    """Records and their texts; `one`: an epoch takes one text of each record that has any."""
    texts = [len(record.captions) + len(record.questions) for record in records]
    return Size(len(records), sum(min(count, 1) if one else count for count in texts))


def _files(params: Params, corpus: str) -> tuple[str, str]:
    return params.corpora[corpus].train, params.corpora[corpus].root


def _published(name: str, split: str) -> Size:
    try:
        return SIZES[name, split]
    except KeyError:
        raise ConfigError(f"{name}: neither are its files there nor is its size known; put its annotations in place") from None
