"""Plans the trainings of a recipe before they start: steps, FLOPs, hours, memory and disk (`alpro plan`).

Steps follow from samples, batch size and world size as in training, FLOPs from the model's sizes (training/flops.py),
memory from the parameters and the stored activations (memory.py). Hours are FLOPs divided by the GPUs' peak times an
*assumed* utilisation, so they are only as good as that assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alpro.config import Corpus, CorpusTraining, Finetuning, Model, Params, Training
from alpro.data.annotations.read import read_answers, read_corpus, read_dataset
from alpro.data.annotations.records import Record
from alpro.data.batches.sampler import BatchPlan
from alpro.errors import ConfigError, nearest
from alpro.planning.memory import MemoryEstimate, training_memory
from alpro.planning.published import ANSWERS, SIZES, Size
from alpro.training.flops import GPUS, recomputed_flops, training_flops, validation_flops
from alpro.training.snapshots import KEEP

UTILISATION = {"half": 0.35, "single": 0.6}  # assumed share of the peak; `--mfu` overrides it


@dataclass(frozen=True)
class Device:
    """A GPU: the FLOP/s it is assumed to reach in 16 bits and in fp32, and a sentence on that assumption."""

    name: str
    half: float
    single: float
    memory_gb: float | None
    assumption: str

    def speed(self, precision: str) -> float:
        """Return the FLOP/s in a precision."""
        return self.single if precision == "fp32" else self.half


@dataclass(frozen=True)
class TrainingPlan:
    """Plan of one training. FLOPs are summed over all processes, memory is per process; memory and disk in bytes."""

    name: str
    samples: dict[str, int]  # by corpus or dataset
    counted: bool  # samples were counted in the files; otherwise they are published numbers
    epochs: int
    batch: int  # samples of all processes in an optimizer step
    steps: int  # optimizer steps
    parameters: int
    trained: int
    flops: float
    validation_flops: float | None  # None: the size of the validation split is unknown
    recomputed_flops: float  # by gradient checkpointing
    precision: str
    memory: MemoryEstimate
    hours: float
    checkpoint_bytes: float
    resume_bytes: float  # two snapshots with their best weights, and one being written

    def as_dict(self) -> dict[str, Any]:
        """Return the plan for JSON."""
        return {**asdict(self), "memory": {**asdict(self.memory), "peak": self.memory.peak}}


def device_of(gpu: str | None, tflops: float | None = None, mfu: float | None = None) -> Device:
    """Return the GPU with a name (h100, a100, ...) or with a peak of `tflops`, at an assumed utilisation.

    Raises ConfigError for an unknown name and for an `mfu` outside (0, 1].
    """
    if mfu is not None and not 0 < mfu <= 1:
        raise ConfigError(f"--mfu {mfu:g}: must be more than 0 and at most 1")
    half, single = (mfu or UTILISATION[kind] for kind in ("half", "single"))
    if tflops is not None:
        if tflops <= 0:
            raise ConfigError(f"--tflops {tflops:g}: must be positive")
        share = mfu or UTILISATION["half"]
        speed = tflops * 1e12 * share
        return Device(f"{tflops:g} TFLOP/s", speed, speed, None, f"{share:.0%} of {tflops:g} TFLOP/s in any precision")
    gpus = {name.lower(): (name, peak) for name, peak in GPUS.items()}
    if gpu is None or gpu.lower() not in gpus:
        raise ConfigError(
            f"--gpu {gpu}: unknown GPU{nearest(str(gpu).lower(), gpus)}; give one of {', '.join(gpus)}, or --tflops"
        )
    name, peak = gpus[gpu.lower()]
    assumed = f"{half:.0%} of {peak.half / 1e12:g} TFLOP/s in 16 bits, {single:.0%} of {peak.single / 1e12:g} in fp32"
    return Device(name, peak.half * half, peak.single * single, peak.memory_gb, assumed)


def plan_trainings(params: Params, gpus: int, device: Device) -> list[TrainingPlan]:
    """Plan the prompter's training, the pre-training and all fine-tunings, with one process on each GPU.

    Raises DataError for unreadable annotations, and ConfigError if a dataset is missing and its size is not published.
    """
    plans = [_corpus_plan(params, name, gpus, device) for name in ("prompter", "pretrain")]
    return plans + [_dataset_plan(params, name, gpus, device) for name in params.datasets]


def _corpus_plan(params: Params, name: str, gpus: int, device: Device) -> TrainingPlan:
    settings: CorpusTraining = params.prompter if name == "prompter" else params.pretrain
    has_data = all(Path(file).exists() for c in settings.corpora for file in _corpus_files(params.corpora[c]))
    sizes = {
        c: _size(read_corpus(params.corpora[c]), one_text=True) if has_data else _published(c, "train")
        for c in settings.corpora
    }
    val: Size | None = None
    if has_data:
        val = _size([record for c in settings.corpora for record in read_corpus(params.corpora[c], "val")], one_text=True)
    entities = params.entities.number if name == "pretrain" and params.pem else 0
    return _plan(params.model, name, name, settings, sizes, val, has_data, gpus, device, num_entities=entities)


def _dataset_plan(params: Params, name: str, gpus: int, device: Device) -> TrainingPlan:
    dataset = params.datasets[name]
    has_data = Path(dataset.annotations).exists() and Path(dataset.videos).exists()
    train = _size(read_dataset(dataset, "train")) if has_data else _published(name, "train")
    val = _size(read_dataset(dataset, "val")) if has_data else SIZES.get((name, "val"))
    answers = {}
    if dataset.task == "qa":
        answers = {"num_answers": len(read_answers(dataset)) if has_data else ANSWERS[name]}
    model, kind = params.model, dataset.task
    return _plan(model, f"finetune/{name}", kind, params.finetune[name], {name: train}, val, has_data, gpus, device, **answers)


def _plan(
    model: Model,
    name: str,
    kind: str,
    settings: Training,
    sizes: dict[str, Size],
    val: Size | None,
    counted: bool,
    gpus: int,
    device: Device,
    **head_sizes: int,
) -> TrainingPlan:
    frames, tokens = settings.num_frames, settings.max_text_tokens
    most = settings.texts_per_clip if isinstance(settings, Finetuning) else 1
    steps, texts, shared = _steps(settings, sizes, gpus, most)
    checkpointing = settings.gradient_checkpointing
    parameters, trained, memory = training_memory(
        kind, model, settings, **({"num_entities": 0} if kind == "prompter" else head_sizes)
    )
    flops = training_flops(kind, model, frames, tokens, shared) * texts
    recomputed = recomputed_flops(kind, model, frames, shared) * texts if checkpointing != "none" else 0.0
    validation = None
    if val is not None:
        validation = validation_flops(kind, model, frames, tokens, val.clips, val.texts) * settings.validations
    return TrainingPlan(
        name=name,
        samples={corpus: size.texts for corpus, size in sizes.items()},
        counted=counted,
        epochs=settings.epochs,
        batch=settings.batch_size * gpus * settings.accumulation,
        steps=steps,
        parameters=parameters,
        trained=trained,
        flops=flops,
        validation_flops=validation,
        recomputed_flops=recomputed,
        precision=settings.precision,
        memory=memory,
        hours=(flops + recomputed + (validation or 0.0)) / (gpus * device.speed(settings.precision)) / 3600,
        checkpoint_bytes=4.0 * parameters,
        resume_bytes=(KEEP + 1) * 12.0 * trained + KEEP * 4.0 * trained,
    )


def _steps(settings: Training, sizes: dict[str, Size], gpus: int, most: int) -> tuple[int, float, float]:
    """Return the optimizer steps, the texts that they train, and the texts that share a clip on average (`most`: at most)."""
    clips = {corpus: size.samples(most) for corpus, size in sizes.items()}
    shared = sum(size.texts for size in sizes.values()) / sum(clips.values())
    batches = BatchPlan(clips, settings.batch_size, gpus, epochs=settings.epochs, seed=0, texts_per_clip=most)
    steps = batches.total_steps // settings.accumulation
    steps = min(steps, settings.max_steps or steps)
    return steps, batches.global_batch * settings.accumulation * shared * steps, shared


def data_bytes(params: Params) -> dict[str, int]:
    """Return the size in bytes of every existing folder of videos or images."""
    folders = {corpus.root for corpus in params.corpora.values()} | {dataset.videos for dataset in params.datasets.values()}
    present = [Path(folder) for folder in sorted(folders) if Path(folder).is_dir()]
    return {str(folder): sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in present}


def _size(records: Sequence[Record], one_text: bool = False) -> Size:
    """Count records and their texts. With `one_text`, an epoch takes one text of each record that has any."""
    texts = [len(record.captions) + len(record.questions) for record in records]
    if one_text:
        return Size(len(records), sum(min(count, 1) for count in texts))
    return Size(len(records), sum(texts), tuple(texts))


def _corpus_files(corpus: Corpus) -> tuple[str, str]:
    return corpus.train, corpus.root


def _published(name: str, split: str) -> Size:
    try:
        return SIZES[name, split]
    except KeyError:
        raise ConfigError(
            f"{name}: its files are missing and its size is not published; put its annotations in place"
        ) from None
