"""Which scenes the made data hold, and what is written of them: everything but the pixels.

Splits share no scene: the test and validation splits are drawn first, and a scene of any training split that is one of
theirs in all that can be told of it is drawn again. (To refuse all that a held-out caption fits would leave half of the
directions of a shape, color and setting out of training.) In a retrieval gallery no caption fits a second video.
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
from alpro.data.sample.film import Film, shoot
from alpro.data.sample.questions import Asker
from alpro.data.sample.scenes import Cards, Scene, Scenes, Tellings, draw
from alpro.data.sample.words import caption, paragraph, still_caption
from alpro.errors import DataError

SETS = ("webvid2m", "cc3m", "msrvtt_ret", "didemo_ret", "msrvtt_qa", "msvd_qa")
CAPTIONS = 2  # of each training video of msrvtt_ret
QUESTIONS = 3  # of each video: those on motion first
TRIES = 2000


@dataclass(frozen=True, slots=True)
class Clip:
    """A video or image to be made."""

    file: str  # below the sample's root
    film: Film


@dataclass
class Plan:
    """What `make_sample` writes; paths are relative to its root."""

    clips: list[Clip] = field(default_factory=list)
    texts: dict[str, str] = field(default_factory=dict)
    scenes: dict[tuple[str, str], dict[str, Scene]] = field(default_factory=dict)  # (set, split) -> name -> scene
    tellings: dict[tuple[str, str], list[tuple[str, Scene]]] = field(default_factory=dict)  # name and what was told


Teller = Callable[[Scene, np.random.Generator], tuple[str, Scene]]
Namer = Callable[[int, np.random.Generator], str]


def make_plan(settings: Sample) -> Plan:
    """Draw all scenes and texts; a pure function of the settings. Raises DataError when too many are asked for."""
    plan = Plan()
    secret = Tellings()  # the held-out scenes; no training scene may be one of them
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
        drawn = [collection.hold_out(split, counts[split], secret) for collection in list(collections.values())[:3]]
        for scenes in drawn:
            for told in scenes:
                secret.add(told)
    for told in collections["webvid2m"].hold_out("val", settings.val_videos, secret):
        secret.add(told)
    for name, number in (
        *((name, settings.train_videos) for name in ("msrvtt_ret", "didemo_ret", "msvd_qa")),
        ("webvid2m", settings.pretrain_videos),
        ("cc3m", settings.pretrain_images),
    ):
        collections[name].fill("train", number, secret, captions=CAPTIONS if name == "msrvtt_ret" else 1)
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
    """One set's videos: draws scenes, names them, shoots them and tells of them."""

    def __init__(self, plan: Plan, name: str, suffix: str, rng: np.random.Generator, namer: Namer, teller: Teller) -> None:
        self.plan, self.name, self.suffix = plan, name, suffix
        self.rng, self.namer, self.teller = rng, namer, teller
        self.written: dict[str, list[tuple[str, str]]] = {}
        self._number = 0

    def hold_out(self, split: str, number: int, secret: Tellings) -> list[Scene]:
        """Draw a split in which every text fits its own video alone; returns its scenes."""
        shown, told, cards = Scenes(), Tellings(), Cards(self.rng)
        kept: list[Scene] = []
        for _ in range(number):
            scene, text, telling = self._draw(
                cards, lambda scene, telling: not (secret.describe(scene) or told.describe(scene) or shown.shows(telling))
            )
            shown.add(scene)
            told.add(telling)
            self._keep(split, scene, [(text, telling)])
            kept.append(scene)
        return kept

    def fill(self, split: str, number: int, secret: Tellings, captions: int) -> None:
        """Draw a training split: any scenes that are not held out."""
        cards = Cards(self.rng)
        for _ in range(number):
            scene, text, telling = self._draw(cards, lambda scene, telling: not secret.describe(scene))
            more = [self.teller(scene, self.rng) for _ in range(captions - 1)]
            self._keep(split, scene, [(text, telling), *more])

    def _draw(self, cards: Cards, good: Callable[[Scene, Scene], bool]) -> tuple[Scene, str, Scene]:
        for _ in range(TRIES):
            scene = draw(cards, moving=self.suffix != ".jpg")
            text, telling = self.teller(scene, self.rng)
            if good(scene, telling):
                return scene, text, telling
        raise DataError(f"params.yaml: sample: no further scene for {self.name} differs from the others; ask for fewer videos")

    def _keep(self, split: str, scene: Scene, told: list[tuple[str, Scene]]) -> None:
        name = self.namer(self._number, self.rng)
        self._number += 1
        folder = "images" if self.suffix == ".jpg" else "videos"
        self.plan.clips.append(Clip(f"{self.name}/{folder}/{name}{self.suffix}", shoot(scene, self.rng)))
        self.plan.scenes.setdefault((self.name, split), {})[name] = scene
        self.plan.tellings.setdefault((self.name, split), []).extend((name, telling) for _, telling in told)
        self.written.setdefault(split, []).extend((name, text) for text, _ in told)


def _write_questions(plan: Plan, name: str, videos: str, rng: np.random.Generator) -> None:
    """Question files on a collection's videos, and the list of the answers that training holds."""
    answers: Counter[str] = Counter()
    for split in ("train", "val", "test"):
        asker = Asker(rng)
        rows = [
            {"video_id": video, "question": asked.text, "answer": asked.answer, "answer_type": asked.type}
            for video, scene in plan.scenes.get((videos, split), {}).items()
            for asked in asker.ask(scene, QUESTIONS)
        ]
        plan.texts[f"{name}/txt/{split}.jsonl"] = _jsonl(rows)
        if split == "train":
            answers.update(row["answer"] for row in rows)
    ranked = sorted(answers, key=lambda answer: (-answers[answer], answer))
    plan.texts[f"{name}/txt/train_ans2label.json"] = _json({answer: label for label, answer in enumerate(ranked)})


# --- names and files in each set's manner -----------------------------------------------------------------


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
