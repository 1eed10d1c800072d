"""Plan of the sample data: its scenes and all of its texts, without the pixels.

Splits share no scene. Test and validation splits are drawn first; a training scene that cannot be distinguished from one of
theirs is drawn again. (Refusing every scene that a held-out caption fits would remove half of the directions of a shape, color
and setting from training.) Within a retrieval test or validation split, each caption fits only its own video.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from alpro.config import Sample
from alpro.data.sample.film import Film, make_film
from alpro.data.sample.questions import QuestionGenerator
from alpro.data.sample.scenes import Cards, Descriptions, Scene, Scenes, draw
from alpro.data.sample.words import brief_caption, caption, paragraph, still_caption
from alpro.errors import DataError

SETS = ("webvid2m", "cc3m", "msrvtt_ret", "didemo_ret", "msrvtt_qa", "msvd_qa")
CAPTIONS = 2  # per training video of msrvtt_ret
BRIEF = 0.7  # probability that a training caption of webvid2m is brief
QUESTIONS = 3  # per video; those about motion first
TRIES = 2000  # scenes drawn before giving up


@dataclass(frozen=True, slots=True)
class PlannedClip:
    """A video or image to render."""

    file: str  # below the sample's root
    film: Film


@dataclass
class Plan:
    """Content of the sample data; paths are relative to its root."""

    clips: list[PlannedClip] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    scenes: dict[tuple[str, str], dict[str, Scene]] = field(default_factory=dict)  # (set, split) -> name -> scene
    descriptions: dict[tuple[str, str], list[tuple[str, Scene]]] = field(default_factory=dict)  # name and description


Captioner = Callable[[Scene, np.random.Generator], tuple[str, Scene]]
Namer = Callable[[int, np.random.Generator], str]


def plan_sample(settings: Sample) -> Plan:
    """Draw all scenes and texts; a pure function of the settings. Raises DataError if too many videos are requested."""
    plan = Plan()
    held_out = Descriptions()  # scenes of the validation and test splits, which training must not contain
    streams = {name: np.random.default_rng([settings.seed, number]) for number, name in enumerate(SETS)}
    counts = {"train": settings.train_videos, "val": settings.val_videos, "test": settings.test_videos}
    collections = {
        "msrvtt_ret": _Collection(plan, "msrvtt_ret", ".mp4", streams["msrvtt_ret"], _msrvtt_name, caption),
        "didemo_ret": _Collection(plan, "didemo_ret", ".mp4", streams["didemo_ret"], _didemo_name, paragraph),
        "msvd_qa": _Collection(plan, "msvd_qa", ".avi", streams["msvd_qa"], _msvd_name, caption),
        "webvid2m": _Collection(plan, "webvid2m", ".mp4", streams["webvid2m"], _webvid_name, caption),
        "cc3m": _Collection(plan, "cc3m", ".jpg", streams["cc3m"], _cc3m_name, still_caption),
    }
    for split in ("test", "val"):
        drawn = [collection.hold_out(split, counts[split], held_out) for collection in list(collections.values())[:3]]
        for scenes in drawn:
            for scene in scenes:
                held_out.add(scene)
    for scene in collections["webvid2m"].hold_out("val", settings.val_videos, held_out):
        held_out.add(scene)
    for name, number in (
        *((name, settings.train_videos) for name in ("msrvtt_ret", "didemo_ret", "msvd_qa")),
        ("webvid2m", settings.pretrain_videos),
        ("cc3m", settings.pretrain_images),
    ):
        captions, brief = CAPTIONS if name == "msrvtt_ret" else 1, BRIEF if name == "webvid2m" else 0.0
        collections[name].fill("train", number, held_out, captions, brief)
    for name in ("msrvtt_ret", "didemo_ret"):
        for split in counts:
            rows = [{"clip_name": clip, "caption": text} for clip, text in collections[name].written[split]]
            plan.texts[f"{name}/txt/{split}.jsonl"] = _jsonl(rows)
    for split in ("train", "val"):
        plan.texts[f"webvid2m/txt/{split}.csv"] = _csv(collections["webvid2m"].written[split])
    plan.texts["cc3m/txt/cc3m.json"] = _json(
        [{"image": f"{image}.jpg", "caption": text} for image, text in collections["cc3m"].written["train"]]
    )
    _write_questions(plan, "msrvtt_qa", "msrvtt_ret", streams["msrvtt_qa"])
    _write_questions(plan, "msvd_qa", "msvd_qa", streams["msvd_qa"])
    return plan


class _Collection:
    """Draws, names, films and captions the scenes of one set."""

    def __init__(
        self, plan: Plan, name: str, suffix: str, rng: np.random.Generator, namer: Namer, captioner: Captioner
    ) -> None:
        self.plan, self.name, self.suffix = plan, name, suffix
        self.rng, self.namer, self.captioner = rng, namer, captioner
        self.written: dict[str, list[tuple[str, str]]] = {}
        self._number = 0

    def hold_out(self, split: str, number: int, held_out: Descriptions) -> list[Scene]:
        """Draw a split in which every text fits only its own video; return its scenes."""
        split_scenes, split_descriptions, cards = Scenes(), Descriptions(), Cards(self.rng)
        scenes: list[Scene] = []
        for _ in range(number):
            scene, text, description = self._draw(
                cards,
                lambda scene, description: (
                    not (held_out.fit(scene) or split_descriptions.fit(scene) or split_scenes.fit(description))
                ),
            )
            split_scenes.add(scene)
            split_descriptions.add(description)
            self._add(split, scene, [(text, description)])
            scenes.append(scene)
        return scenes

    def fill(self, split: str, number: int, held_out: Descriptions, captions: int, brief: float) -> None:
        """Draw a training split, without the held-out scenes. `brief`: probability that a first caption is a brief one."""
        cards = Cards(self.rng)
        for _ in range(number):
            scene, text, description = self._draw(cards, lambda scene, description: not held_out.fit(scene))
            if brief and self.rng.random() < brief:
                text, description = brief_caption(scene, self.rng)
            more = [self.captioner(scene, self.rng) for _ in range(captions - 1)]
            self._add(split, scene, [(text, description), *more])

    def _draw(self, cards: Cards, accept: Callable[[Scene, Scene], bool]) -> tuple[Scene, str, Scene]:
        for _ in range(TRIES):
            scene = draw(cards, moving=self.suffix != ".jpg")
            text, description = self.captioner(scene, self.rng)
            if accept(scene, description):
                return scene, text, description
        raise DataError(f"params.yaml: sample: no further distinct scene for {self.name}; request fewer videos")

    def _add(self, split: str, scene: Scene, captions: list[tuple[str, Scene]]) -> None:
        name = self.namer(self._number, self.rng)
        self._number += 1
        folder = "images" if self.suffix == ".jpg" else "videos"
        self.plan.clips.append(PlannedClip(f"{self.name}/{folder}/{name}{self.suffix}", make_film(scene, self.rng)))
        self.plan.scenes.setdefault((self.name, split), {})[name] = scene
        self.plan.descriptions.setdefault((self.name, split), []).extend((name, description) for _, description in captions)
        self.written.setdefault(split, []).extend((name, text) for text, _ in captions)


def _write_questions(plan: Plan, name: str, videos: str, rng: np.random.Generator) -> None:
    """Add question files on a collection's videos, and the list of the training answers."""
    answers: Counter[str] = Counter()
    for split in ("train", "val", "test"):
        generator = QuestionGenerator(rng)
        rows = [
            {"video_id": video, "question": question.text, "answer": question.answer, "answer_type": question.type}
            for video, scene in plan.scenes.get((videos, split), {}).items()
            for question in generator.draw(scene, QUESTIONS)
        ]
        plan.texts[f"{name}/txt/{split}.jsonl"] = _jsonl(rows)
        if split == "train":
            answers.update(row["answer"] for row in rows)
    ranked = sorted(answers, key=lambda answer: (-answers[answer], answer))
    plan.texts[f"{name}/txt/train_ans2label.json"] = _json({answer: label for label, answer in enumerate(ranked)})


# --- names and files in each set's format -----------------------------------------------------------------


def _msrvtt_name(number: int, rng: np.random.Generator) -> str:
    return f"video{number}"


def _msvd_name(number: int, rng: np.random.Generator) -> str:
    return f"vid{number + 1}"


def _didemo_name(number: int, rng: np.random.Generator) -> str:
    owner, secret = rng.integers(10**7, 10**8), rng.integers(16**9, 16**10)
    return f"{owner}@N{number % 10:02d}_{5_000_000_000 + number}_{secret:010x}"


def _webvid_name(number: int, rng: np.random.Generator) -> str:
    return str(10_000_000 + 37 * number)


def _cc3m_name(number: int, rng: np.random.Generator) -> str:
    return f"{number:07d}"


def _jsonl(rows: list[dict[str, str]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _json(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


def _csv(rows: list[tuple[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("video_id", "text", "txt_len"))
    writer.writerows((video, text, len(text.split())) for video, text in rows)
    return out.getvalue()
