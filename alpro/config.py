"""The types of params.yaml: one typed configuration, unknown keys refused, contradictions refused at start.

`params.yaml` is the single source (recipes/ holds complete ones); every stage of dvc.yaml loads it through
`load`. The defaults below are the paper's (REFERENCE: section 3 of the ALPRO paper, arXiv 2112.09583).
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from alpro.errors import ConfigError
from alpro.overrides import override

Fraction = float


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation allows, without their bounds."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) is Union or type(annotation).__name__ == "UnionType":
        return {kind for choice in get_args(annotation) for kind in _kinds(choice)}
    return {annotation}


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values can't be changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*", mode="before")
    @classmethod
    def _of_its_kind(cls, value: Any, field: ValidationInfo) -> Any:
        """A switch for a number, or a number in quotes, is a slip. (YAML 1.1 reads 1e-4 as text: floats may be text.)"""
        kinds = _kinds(cls.model_fields[field.field_name or ""].annotation)
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError(f"must be a number, not {str(value).lower()}")
        if isinstance(value, str) and int in kinds and str not in kinds:
            raise ValueError(f"must be a whole number, not the text {value!r}")
        return value


# --- the machine ------------------------------------------------------------------------------------------


class Launch(Section):
    """On how many processes and hosts the stages that train and evaluate run."""

    processes: PositiveInt | None = Field(
        1, description="Number of processes over all hosts; null: one for each GPU of this machine, two where it has none."
    )
    hosts: str | None = Field(None, description="Horovod's host list, `name:slots,...`; null: this machine.")
    threads: PositiveInt = Field(1, description="CPU threads of each process.")
    start_timeout_s: PositiveFloat = Field(120, description="Give up when the processes have not met by then.")
    stall_timeout_s: PositiveFloat = Field(1800, description="End the run when a process shows no progress so long.")
    min_processes: PositiveInt | None = Field(
        None, description="Elastic: go on while so many processes are left; null: a lost process ends the run."
    )
    max_processes: PositiveInt | None = Field(None, description="Elastic: take in so many at the most; null: `processes`.")
    discovery: str | None = Field(
        None, description="Elastic: a program that prints the hosts there are, `name:slots` a line; null: those of `hosts`."
    )
    commit_every: PositiveInt = Field(10, description="Elastic: steps between two commits; those after the last are redone.")
    sample_log: str | None = Field(None, description="File for the ids of the samples of each committed step; null: none.")

    @property
    def world(self) -> int:
        """How many processes `processes` means here: the world size."""
        from alpro import gpus

        return self.processes or gpus.count() or 2

    @model_validator(mode="after")
    def _processes_are_said(self) -> Launch:
        for name in ("hosts", "min_processes"):
            if self.processes is None and getattr(self, name) is not None:
                raise ValueError(f"launch.{name} needs launch.processes: how many over all hosts")
        return self

    @model_validator(mode="after")
    def _elastic(self) -> Launch:
        if self.min_processes is None:
            for name in ("max_processes", "discovery"):
                if getattr(self, name) is not None:
                    raise ValueError(f"launch.{name} means nothing without launch.min_processes")
        elif not self.min_processes <= self.world <= (self.max_processes or self.world):
            raise ValueError("launch.processes must lie between launch.min_processes and launch.max_processes")
        elif self.hosts is None and self.discovery is None:
            raise ValueError("launch.min_processes needs launch.hosts or launch.discovery: Horovod gives up a host as a whole")
        return self


class Loader(Section):
    """How samples are read."""

    workers: int = Field(0, ge=0, description="Reading processes of each training process; 0 reads in the process itself.")
    prefetch: PositiveInt = Field(2, description="Batches that each worker keeps ready.")
    max_unreadable: Fraction = Field(0.001, ge=0, le=1, description="Training stops when a larger share can't be read.")


# --- the model --------------------------------------------------------------------------------------------


class Model(Section):
    """Sizes of the model; the defaults are ALPRO's (TimeSformer-B/16 and BERT-base)."""

    image_size: PositiveInt = Field(224, description="Side of the square frames, in pixels.")
    patch_size: PositiveInt = 16
    width: PositiveInt = Field(768, description="Width of the vision, text and multimodal encoders.")
    heads: PositiveInt = 12
    intermediate: PositiveInt = Field(3072, description="Hidden width of every MLP.")
    vision_layers: PositiveInt = 12
    text_layers: PositiveInt = Field(6, description="Layers of the text encoder (BERT's lower half).")
    fusion_layers: PositiveInt = Field(6, description="Layers of the multimodal encoder (BERT's upper half).")
    embed_dim: PositiveInt = Field(256, description="Width of the space in which VTC compares.")
    vocab_size: PositiveInt = 30522
    max_positions: PositiveInt = 512
    dropout: float = Field(0.1, ge=0, lt=1, description="Of the text and multimodal encoders.")
    drop_path: float = Field(0.1, ge=0, lt=1, description="Of the last block of the vision encoder; 0 in the first.")
    temperature: PositiveFloat = Field(0.07, description="VTC's at the start; learned, clamped to [0.001, 0.5].")

    @model_validator(mode="after")
    def _sizes_fit(self) -> Model:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


# --- data -------------------------------------------------------------------------------------------------


class Corpus(Section):
    """Captions for the prompter's and the pre-training."""

    media: Literal["video", "image"]
    train: str = Field(description="Annotation file: .csv, .tsv, .parquet, .jsonl or .json.")
    val: str | None = None
    root: str = Field(description="Folder of the videos or images that the file names.")


class Dataset(Section):
    """A down-stream data set, an official one or one's own; its name is the name of the task."""

    task: Literal["retrieval", "qa"]
    annotations: str = Field(
        description="Folder with train/val/test.jsonl and, for qa, train_ans2label.json; or one table with a column `split`."
    )
    videos: str = Field(description="Folder of the videos; may be another set's (MSRVTT-QA uses msrvtt_ret's).")


class Convert(Section):
    """Copies of a folder of videos that decode fast (`alpro data convert`); `datasets` or `corpora` may name them."""

    source: str = Field(description="Folder of the originals, which are only read.")
    output: str = Field(description="Folder of the copies.")
    every: PositiveInt | None = Field(None, description="Keep every so manieth frame; WebVid at 10 % of its rate: 10.")
    fps: PositiveFloat | None = Field(None, description="Keep so many frames a second.")
    short_side: PositiveInt | None = Field(None, description="Pixels of the shorter side; smaller videos stay as they are.")
    min_frames: PositiveInt = Field(
        16, description="At least so many frames, where there are: what a training reads of a clip."
    )
    gop: PositiveInt = Field(8, description="Frames from one key frame to the next.")
    crf: int = Field(23, ge=0, le=51, description="x264's quality: lower is better and larger.")

    @model_validator(mode="after")
    def _one_rate(self) -> Convert:
        if self.every and self.fps:
            raise ValueError("give `every` or `fps`, not both")
        return self


class Sample(Section):
    """What `alpro data sample` makes."""

    seed: int = 0
    frame_size: PositiveInt = Field(96, description="Side of the made videos, in pixels.")
    pretrain_videos: PositiveInt = 800
    pretrain_images: PositiveInt = 300
    train_videos: PositiveInt = Field(500, description="Of each down-stream video collection.")
    val_videos: PositiveInt = 60
    test_videos: PositiveInt = 120


class Text(Section):
    """The tokenizer."""

    tokenizer: str = Field(description="Folder with a WordPiece vocabulary (vocab.txt).")


class Entities(Section):
    """The entity list of PEM."""

    source: str | None = Field(None, description="A `unigrams.txt` to take as it is; null: count the captions' nouns.")
    tagger: str | None = Field(None, description="A spaCy pipeline, name or folder, that finds the nouns; null: our own rule.")
    number: NonNegativeInt = Field(1000, description="How many of the most frequent nouns are entities; 0: no PEM.")


# --- training ---------------------------------------------------------------------------------------------


class RandAugment(Section):
    """RandAugment, the same for all frames of a clip."""

    operations: PositiveInt = 2
    magnitude: PositiveFloat = 5


class Training(Section):
    """One training; the defaults hold for all four."""

    epochs: PositiveInt
    max_steps: PositiveInt | None = Field(None, description="Stop after so many optimizer steps; null: all epochs.")
    batch_size: PositiveInt = Field(description="Samples per process and micro-step.")
    accumulation: PositiveInt = Field(1, description="Micro-steps per optimizer step.")
    accumulate: Literal["mean", "sum"] = Field("mean", description="What is made of the micro-steps' gradients.")
    average: Literal["items", "processes"] = Field(
        "items", description="What a loss is a mean of: all items (masked tokens, kept crops), or the processes' own means."
    )
    compression: Literal["none", "fp16"] = Field("none", description="In what the gradients travel; none: as they are, fp32.")
    learning_rate: PositiveFloat
    weight_decay: float = Field(0.001, ge=0)
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: PositiveFloat = 1e-6
    warmup_ratio: float = Field(0.1, ge=0, le=1, description="Share of all steps in which the rate grows.")
    grad_clip: PositiveFloat = Field(description="Largest norm of the whole gradient.")
    num_frames: PositiveInt
    max_text_tokens: PositiveInt
    validations: PositiveInt = Field(description="How often the validation split is evaluated, evenly over the steps.")
    train_frames: Literal["random", "headtail", "uniform"] = "headtail"
    eval_frames: Literal["uniform", "uniform_floor", "headtail"] = "uniform"
    decode_size: PositiveInt | None = Field(None, description="Frames are read at this side, then cropped; null: the model's.")
    randaugment: RandAugment | None = RandAugment()
    reshuffle: bool = Field(True, description="A new order in every epoch.")
    distinct_videos: bool = Field(True, description="No two captions of one video in a batch.")
    gradient_checkpointing: Literal["none", "exact", "official"] = Field(
        "none", description="Of the vision encoder; `official` loses the attention's and MLP's gradients, as the released code."
    )
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    select_by: str = Field(description="Validation metric that says which checkpoint is best; `-name`: smaller is better.")
    keep: list[Literal["best", "last", "every"]] = Field(
        ["best"],
        min_length=1,
        description="Checkpoints: `best`, or else `last`, is the output; both: last/; `every` validation's: step-*/.",
    )
    save_every_s: PositiveFloat = Field(600, description="Resume state is written at least so often.")
    log_every: PositiveInt = Field(10, description="Steps between two log lines.")

    @field_validator("keep")
    @classmethod
    def _something_is_the_output(cls, keep: list[str]) -> list[str]:
        if not {"best", "last"} & set(keep):
            raise ValueError("keep must name `best` or `last`, which becomes the output")
        return keep


class Objectives(Section):
    """Weights of the pre-training losses; 0 turns one off."""

    vtc: float = Field(1.0, ge=0)
    vtm: float = Field(1.0, ge=0)
    mlm: float = Field(1.0, ge=0)
    pem: float = Field(1.0, ge=0)


class PEM(Section):
    """Prompting entity modeling."""

    ensemble: bool = Field(True, description="Average each entity's prompt over all templates; false: the first alone.")
    ignore: Literal["max_probability", "argmax_zero"] = Field(
        "max_probability",
        description="Which crops carry no label: under the threshold (paper), or of entity 0 (released code).",
    )
    threshold: float = Field(0.2, ge=0, le=1)
    crop_area: tuple[float, float] = (0.3, 0.5)
    crop_aspect: tuple[float, float] = (0.3, 1 / 0.3)


class CorpusTraining(Training):
    """A training on caption corpora."""

    corpora: list[str] = Field(description="Names under `corpora`.")
    mix: Literal["equal", "size"] = Field("equal", description="How a step's corpus is drawn: equal odds, or by size.")
    augment_images: bool = Field(
        True, description="Crop, flip and RandAugment images; false where captions tell left from right."
    )


class Pretraining(CorpusTraining):
    """The pre-training of the video-language model."""

    objectives: Objectives = Objectives()
    mlm_probability: float = Field(0.15, gt=0, lt=1)
    pem: PEM = PEM()


class Init(Section):
    """Where trainings start: the output of another stage, a checkpoint (own or official), or a file of recipes/init."""

    prompter: str
    teacher: str = Field(description="The prompter that pre-training asks.")
    pretrain: str
    finetune: str
    resize: Literal["flat_nearest", "bicubic"] = Field(
        "bicubic",
        description="How a checkpoint's position embedding meets another image_size: over the flattened patches (released "
        "code), or over both dimensions.",
    )


class Evaluation(Section):
    """How a task's test split is evaluated."""

    split: Literal["test", "val"] = "test"
    batch_pairs: PositiveInt = Field(64, description="Text-video pairs of one multimodal batch.")
    rerank: PositiveInt | None = Field(None, description="VTM scores only the K best of VTC per query; null: all.")
    rerank_for: Literal["both", "text2video"] = Field("both", description="Which queries are re-ranked.")
    features: str | None = Field(None, description="Folder that keeps encoded videos for later evaluations; null: none does.")
    round_scores: int | None = Field(
        None, description="Decimals to which scores are rounded before ranking (released code: 4)."
    )
    count_padding: bool = Field(
        False,
        description="Of QA's printed figures: count the questions that fill up the last batches too (released code).",
    )
    bootstrap: PositiveInt = Field(1000, description="Resamples of the interval.")


class Evaluate(Evaluation):
    """The evaluation of a fine-tuned model."""

    checkpoint: str = Field(description="What is evaluated; by default what the fine-tuning stage made.")


class Gate(Section):
    """What a candidate must show to become the champion (`alpro promote`); figures in percent or points of it."""

    threshold: float | None = Field(None, description="Least R@1 or overall accuracy of a champion; null: none.")
    gain: float = Field(0.0, ge=0, description="Least gain of that figure over the champion's.")
    p_value: float = Field(0.05, gt=0, le=1, description="Largest p-value of the paired bootstrap over videos.")
    resamples: PositiveInt = Field(10_000, description="Resamples of that bootstrap.")
    recall_margin: float = Field(1.0, ge=0, description="R@5, R@10 and video-to-text R@1 may be so much worse.")
    median_rank_margin: float = Field(0.0, ge=0, description="The median rank may be so much higher.")
    type_margin: float = Field(2.0, ge=0, description="The accuracy of each type of question may be so much worse.")
    type_queries: PositiveInt = Field(30, description="Types with fewer questions are shown, not judged.")


class Params(Section):
    """All of params.yaml."""

    recipe: str
    seed: int = 42
    launch: Launch = Launch()
    loader: Loader = Loader()
    model: Model = Model()
    text: Text
    entities: Entities = Entities()
    sample: Sample | None = Field(None, description="Made data; null where the data are real.")
    corpora: dict[str, Corpus]
    datasets: dict[str, Dataset]
    convert: dict[str, Convert] = Field({}, description="Folders of copies that the pipeline makes, by a name of your own.")
    init: Init
    prompter: CorpusTraining
    pretrain: Pretraining
    finetune: dict[str, Training]
    evaluate: dict[str, Evaluate]
    zeroshot: dict[str, Evaluation] = Field({}, description="Retrieval sets on which `init.finetune` is evaluated as it is.")
    gate: Gate = Gate()

    @property
    def pem(self) -> bool:
        """Whether pre-training has entities to learn of."""
        return bool(self.pretrain.objectives.pem and self.entities.number)

    @model_validator(mode="after")
    def _starts_are_paths(self) -> Params:
        scratch, imagenet, models = "recipes/init/scratch.yaml", "recipes/init/imagenet.yaml", f"models/{self.recipe}"
        prompter, pretrained = f"{models}/prompter", f"{models}/pretrain"
        stages = {"prompter": imagenet, "teacher": prompter, "pretrain": prompter, "finetune": pretrained}
        for name, stage in stages.items():
            word = getattr(self.init, name)
            if path := {"stage": stage, "imagenet": imagenet, "scratch": scratch}.get(word):
                path = prompter if name == "teacher" else path  # PEM asks a prompter, never what nobody trained
                raise ValueError(f"init.{name}: {word!r} is no path; did you mean {path}?")
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> Params:
        for where, training in (("prompter", self.prompter), ("pretrain", self.pretrain)):
            for name in training.corpora:
                if name not in self.corpora:
                    raise ValueError(
                        f"{where}.corpora names {name!r}, which `corpora` does not have{nearest(name, self.corpora)}"
                    )
        for where, section in (("finetune", self.finetune), ("evaluate", self.evaluate), ("zeroshot", self.zeroshot)):
            for name in section:
                if name not in self.datasets:
                    raise ValueError(f"{where}.{name}: `datasets` has no {name!r}{nearest(name, self.datasets)}")
        for name, dataset in self.datasets.items():
            if name not in self.finetune or name not in self.evaluate:
                raise ValueError(f"datasets.{name}: finetune.{name} and evaluate.{name} must be given too")
            if name in self.zeroshot and dataset.task != "retrieval":
                raise ValueError(f"zeroshot.{name}: only retrieval can be evaluated without fine-tuning")
        matching = {f"finetune.{name}": t for name, t in self.finetune.items() if self.datasets[name].task == "retrieval"}
        if self.pretrain.objectives.vtm:
            matching["pretrain"] = self.pretrain
        for where, settings in matching.items():
            if settings.batch_size < 2:
                raise ValueError(f"{where}.batch_size must be 2 or more: VTM's negatives come from the process's own batch")
        longest = max(t.max_text_tokens for t in (self.prompter, self.pretrain, *self.finetune.values()))
        if longest > self.model.max_positions:
            raise ValueError(f"max_text_tokens {longest} is more than model.max_positions {self.model.max_positions}")
        return self


# --- reading ----------------------------------------------------------------------------------------------


def load(path: str | Path = "params.yaml", changes: Sequence[str] = ()) -> Params:
    """Read and check params.yaml, with `changes` of the form key=value made in it (alpro/overrides.py).

    Raises ConfigError with one line per fault, each naming its key.
    """
    path = Path(path)
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; `alpro recipe use sample` writes one") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no keys; `alpro recipe use sample` writes a complete one")
    return parse(override(raw, changes), where=str(path))


def parse(raw: dict[str, Any], where: str = "params.yaml") -> Params:
    """Check a dict of parameters. Raises ConfigError as `load` does."""
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{where}: {_line(fault)}" for fault in error.errors())) from None


def nearest(name: str, known: Any) -> str:
    """`; did you mean 'x'?`, or nothing where no known name is close."""
    match = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {match[0]!r}?" if match else ""


def _line(fault: Any) -> str:
    loc = [str(part) for part in fault["loc"]]
    key = ".".join(loc)
    if fault["type"] == "extra_forbidden":
        section = _section_at(loc[:-1])
        hint = nearest(loc[-1], section.model_fields) if section else ""
        return f"{key}: no such parameter{hint}"
    if fault["type"] == "missing":
        return f"{key}: missing"
    message = fault["msg"].removeprefix("Value error, ")
    return (
        f"{key}: {message} (got {fault['input']!r})"
        if key and fault["type"] != "value_error"
        else f"{key}: {message}".lstrip(": ")
    )


def _section_at(loc: list[str]) -> type[Section] | None:
    """The section type at a path of keys, seen through optional and dict types."""
    here: Any = Params
    for name in loc:
        if isinstance(here, type) and issubclass(here, BaseModel):
            if name not in here.model_fields:
                return None
            here = here.model_fields[name].annotation
        elif get_origin(here) is dict:
            here = get_args(here)[1]
        if get_origin(here) is Union or type(here).__name__ == "UnionType":
            here = next(arg for arg in get_args(here) if arg is not type(None))
    return here if isinstance(here, type) and issubclass(here, Section) else None
