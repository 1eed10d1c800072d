"""Cost of an evaluation compared with the naive loop of the released code, in fp32 at the paper's size.

    python -m benchmarks.evaluation --json benchmarks/evaluation.json [--quick]

The naive loop is the tests' oracle. It encodes each video once per 64 captions and each caption once per video, and decodes
and encodes a video again for every question. Both loops run in turns on a slice of the data. The cost of MSRVTT's 1,000 x
1,000 pairs is extrapolated: seconds per video, caption and pair times their numbers. torch counts the FLOPs of the
operations. Peak memory is that of 1,000 x 1,000 pairs with random features, plus that of a full batch.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from alpro.config import Model
from alpro.data.annotations.records import Question, Record
from alpro.evaluation.clips import ClipReader, Preprocessing
from alpro.evaluation.qa import evaluate_qa
from alpro.evaluation.retrieval import Ranking, evaluate_retrieval
from alpro.files.json_files import write_json
from alpro.models import Alpro, build_model
from benchmarks.loader import make_videos
from tests.evaluation import naive

IMAGE, TOKENS = 224, 40  # side in pixels; limit of text tokens
RETRIEVAL_FRAMES, QA_FRAMES = 8, 16
VIDEOS = CAPTIONS = 1000  # MSRVTT's 1k-A
CHUNK = 64  # captions per encoding of a video in the released code
QUESTIONS = 25  # per video; MSRVTT-QA has 24, MSVD-QA 26
ANSWERS = 1500
K = 128
BATCH = 16  # pairs of a multimodal batch; small batches suit a CPU's caches
WORDS = (9.3, 3.5)  # mean and standard deviation of a caption's words (MSRVTT); questions are not longer


class Words:
    """A tokenizer with one token per word; the costs depend only on the number of tokens."""

    def __call__(
        self, texts: list[str], padding: str = "", max_length: int = TOKENS, return_tensors: str = "", **_: Any
    ) -> Any:
        ids = [[101, *(1000 + len(word) for word in text.split()), 102][:max_length] for text in texts]
        if not return_tensors:
            return {"input_ids": ids}
        width = max_length if padding == "max_length" else max(map(len, ids))
        filled = torch.tensor([[*row, *[0] * (width - len(row))] for row in ids])
        return {"input_ids": filled, "attention_mask": (filled > 0).long()}


def sentences(number: int) -> list[str]:
    """Return random texts with the lengths of captions."""
    lengths = np.random.default_rng(0).normal(*WORDS, number).round().clip(3, 30).astype(int)
    return [" ".join("word"[: 1 + n % 4] for n in range(length)) for length in lengths]


@dataclass
class Clock:
    """Seconds spent in a model's methods during an evaluation, and the items that each processed."""

    seconds: dict[str, float] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)

    def watch(self, model: Alpro, *names: str) -> Callable[[], None]:
        """Time these methods of the model. Return a function that stops the timing."""
        for name in names:
            method = getattr(model, name)

            def timed(first: torch.Tensor, *rest: Any, _name: str = name, _method: Any = method, **options: Any) -> Any:
                start = time.perf_counter()
                result = _method(first, *rest, **options)
                self.seconds[_name] = self.seconds.get(_name, 0.0) + time.perf_counter() - start
                self.items[_name] = self.items.get(_name, 0) + len(first)
                return result

            setattr(model, name, timed)
        return lambda: [delattr(model, name) for name in names] and None


def timed(job: Callable[[], object]) -> float:
    """Return the seconds that a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


# --- seconds ----------------------------------------------------------------------------------------------


def measure_qa(videos: list[Path], repeats: int) -> dict[str, Any]:
    """Return the seconds per question of the naive loop and of ours, measured in turns."""
    model = build_model("qa", num_frames=QA_FRAMES, num_answers=ANSWERS).eval()
    texts = sentences(QUESTIONS)
    answers = {str(label): label for label in range(ANSWERS)}
    preprocessing = Preprocessing(QA_FRAMES, IMAGE, TOKENS)

    def with_questions(number: int) -> list[Record]:
        return [Record("v", videos[0], questions=tuple(Question(n, t, "0", "what") for n, t in enumerate(texts[:number])))]

    evaluate_qa(model, with_questions(1), Words(), answers, preprocessing)  # warm-up
    rows = []
    for _ in range(repeats):
        slow = [timed(lambda: naive.answer_probabilities(model, with_questions(1), Words(), preprocessing))]
        fast = timed(lambda: evaluate_qa(model, with_questions(QUESTIONS), Words(), answers, preprocessing, batch_pairs=BATCH))
        slow.append(timed(lambda: naive.answer_probabilities(model, with_questions(1), Words(), preprocessing)))
        rows.append((sum(slow) / 2, fast / QUESTIONS))
    slow_s, fast_s = np.median(rows, axis=0)
    return {"naive_s": slow_s, "ours_s": fast_s, "runs": rows, "speedup": float(np.median([a / b for a, b in rows]))}


def measure_retrieval(videos: list[Path], repeats: int, slice_videos: int) -> dict[str, Any]:
    """Return the seconds of the naive loop's chunk (a video and 64 captions), and of our video, caption and pair."""
    model = build_model("retrieval", num_frames=RETRIEVAL_FRAMES).eval()
    texts = sentences(CHUNK)
    preprocessing = Preprocessing(RETRIEVAL_FRAMES, IMAGE, TOKENS)
    slice_records = [Record(str(n), videos[n], captions=tuple(texts[n::slice_videos])) for n in range(slice_videos)]
    chunk_records = [Record("0", videos[0], captions=tuple(texts))]
    evaluate_retrieval(model, [Record("0", videos[0], captions=tuple(texts[:2]))], Words(), preprocessing)  # warm-up
    rows = []
    for _ in range(repeats):
        chunk = timed(lambda: naive.retrieval_scores(model, chunk_records, Words(), preprocessing, chunk=CHUNK))
        clock = Clock()
        stop = clock.watch(model, "encode_video", "encode_text", "video_feature", "text_feature")
        whole = timed(lambda: evaluate_retrieval(model, slice_records, Words(), preprocessing, batch_pairs=BATCH))
        stop()
        video = (clock.seconds["encode_video"] + clock.seconds["video_feature"]) / slice_videos
        text = (clock.seconds["encode_text"] + clock.seconds["text_feature"]) / CHUNK
        pair = (whole - sum(clock.seconds.values())) / (slice_videos * CHUNK)  # decoding and everything else counts as pairs
        rows.append(
            {"naive_chunk_s": chunk, "video_s": video, "text_s": text, "pair_s": pair, **derived(chunk, video, text, pair)}
        )
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]} | {"runs": rows}


def derived(chunk: float, video: float, text: float, pair: float) -> dict[str, float]:
    """Return the speed-ups of MSRVTT's test from the cost of each piece, assuming that no pair is needed in both directions."""
    slow = VIDEOS * CAPTIONS / CHUNK * chunk
    encoding = VIDEOS * video + CAPTIONS * text
    pairs = {"exact": VIDEOS * CAPTIONS, "k128": K * CAPTIONS, "k128_both": K * (CAPTIONS + VIDEOS)}
    return {name: slow / (encoding + number * pair) for name, number in pairs.items()}


# --- FLOPs ------------------------------------------------------------------------------------------------


def counted(job: Callable[[], object]) -> float:
    """Return the GFLOPs of a job on meta tensors."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        job()
    return counter.get_total_flops() / 1e9


def count_flops() -> dict[str, Any]:
    """Return the GFLOPs of the pieces, and the speed-ups that follow from them."""
    with torch.device("meta"):
        retrieval = build_model("retrieval", num_frames=RETRIEVAL_FRAMES, seed=None).eval()
        qa = build_model("qa", num_frames=QA_FRAMES, num_answers=ANSWERS, seed=None).eval()
        lengths = [min(len(text.split()) + 2, TOKENS) for text in sentences(1000)]

        def text(length: int) -> float:
            return counted(lambda: retrieval.encode_text(torch.zeros(1, length, dtype=torch.long), torch.ones(1, length)))

        def fused(length: int, cls_only: bool) -> float:
            state, video = torch.empty(1, length, 768), torch.empty(1, 197, 768)
            return counted(lambda: retrieval.fuse(state, torch.ones(1, length), video, cls_only))

        video8 = counted(lambda: retrieval.encode_video(torch.empty(1, RETRIEVAL_FRAMES, 3, IMAGE, IMAGE)))
        video16 = counted(lambda: qa.encode_video(torch.empty(1, QA_FRAMES, 3, IMAGE, IMAGE)))
        numbers = {length: lengths.count(length) / len(lengths) for length in sorted(set(lengths))}
        text_real = sum(share * text(length) for length, share in numbers.items())
        pair_real = sum(share * fused(length, True) for length, share in numbers.items())
        text_full, pair_full = text(TOKENS), fused(TOKENS, False)
    chunk = video8 + CHUNK * (text_full + pair_full)
    question = video16 + text_full + pair_full
    ours = video16 / QUESTIONS + text_real + pair_real
    return {
        "video_8_frames": video8, "video_16_frames": video16, "text_padded": text_full, "text": text_real,
        "pair_padded": pair_full, "pair_cls": pair_real, "naive_chunk": chunk, "naive_question": question,
        "our_question": ours, "qa": question / ours, **derived(chunk, video8, text_real, pair_real),
    }  # fmt: skip


# --- memory -----------------------------------------------------------------------------------------------


def memory(what: str, videos: list[Path]) -> float:
    """Measure one part of retrieval in its own process; return its peak memory without the model, in GB."""
    command = [sys.executable, "-m", "benchmarks.evaluation", "--memory", what, "--videos", str(videos[0].parent)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return float(lines[-1])


def peak_of(what: str, videos: list[Path]) -> float:
    """Return the peak memory of one part of retrieval without the model, in GB; runs in the process that `memory` starts.

    `held`: 1,000 x 1,000 pairs with random features in memory. VTM scores one pair per caption, as more pairs take longer
    but no more memory. `batch`: two videos, encoded and scored in full batches of 64 pairs. Layers run one after the other,
    so a few layers of each encoder have the same peak as all.
    """
    config = Model(vision_layers=1, text_layers=1, fusion_layers=2)
    model = build_model("retrieval", num_frames=RETRIEVAL_FRAMES, config=config).eval()
    texts = sentences(CAPTIONS if what == "held" else CHUNK)
    number = VIDEOS if what == "held" else 2
    records = [Record(str(n), videos[n % len(videos)], captions=tuple(texts[n::number])) for n in range(number)]
    if what == "held":
        generator = torch.Generator().manual_seed(0)
        blank = torch.zeros(RETRIEVAL_FRAMES, 3, IMAGE, IMAGE, dtype=torch.uint8)
        ClipReader.clips = lambda self, records: (blank for _ in records)  # type: ignore[method-assign]
        model.encode_video = lambda pixels: torch.randn(len(pixels), 197, 768, generator=generator)  # type: ignore[method-assign]
    preprocessing = Preprocessing(RETRIEVAL_FRAMES, IMAGE, TOKENS)
    ranking = Ranking(rerank=1, rerank_for="text2video") if what == "held" else Ranking()
    before = status("VmRSS")
    evaluate_retrieval(model, records, Words(), preprocessing, ranking=ranking, batch_pairs=CHUNK)
    return (status("VmHWM") - before) / 1e6


def status(name: str) -> int:
    """Return a value of /proc/self/status, in kB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def processor() -> str:
    """Return the CPU's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


# --- the table --------------------------------------------------------------------------------------------


def table(result: dict[str, Any]) -> str:
    """Format the result as a table."""
    flops, bounds = result["flops"], {"qa": 12, "exact": 1.6, "k128": 8, "k128_both": 5}
    names = {
        "qa": f"QA, {QUESTIONS} questions a video", "exact": "retrieval, all 1,000 x 1,000 pairs",
        "k128": "retrieval, K=128, text to video", "k128_both": "retrieval, K=128, both directions",
    }  # fmt: skip
    key = {"qa": "qa_speedup", **{name: f"retrieval_speedup_{name}" for name in ("exact", "k128", "k128_both")}}
    lines = [f"{'':38}{'measured':>10}{'by FLOPs':>10}{'target':>8}"]
    lines += [f"{names[n]:38}{result[key[n]]:9.1f}x{flops[n]:9.1f}x{bounds[n]:7}x" for n in names]
    lines.append(f"peak memory beyond the model, 1,000 x 1,000: {result['memory_gb']:.1f} GB (target: under 6)")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--quick", action="store_true", help="one repeat of a smaller slice: under ten minutes on two cores")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", choices=["held", "batch"], help=argparse.SUPPRESS)
    parser.add_argument("--videos", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        print(peak_of(args.memory, sorted(args.videos.glob("*.mp4"))))
        return
    repeats, slice_videos = (1, 1) if args.quick else (args.repeats, 4)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        videos = make_videos(Path(folder), 4)
        flops = count_flops()
        qa = measure_qa(videos, repeats)
        retrieval = measure_retrieval(videos, repeats, slice_videos)
        held = {what: memory(what, videos) for what in ("held", "batch")}
    machine = {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    result: dict[str, Any] = {
        "qa_speedup": qa["speedup"],
        **{f"retrieval_speedup_{name}": retrieval[name] for name in ("exact", "k128", "k128_both")},
        "memory_gb": sum(held.values()),
        "memory_parts_gb": held,
        "flops": flops,
        "seconds": {"qa": qa, "retrieval": retrieval},
        "derived_by_counting": ["retrieval_speedup_exact", "retrieval_speedup_k128", "retrieval_speedup_k128_both"],
        "quick": args.quick,
        "machine": machine,
        "took_s": time.perf_counter() - start,
    }
    print(table(result))
    if args.json:
        write_json(args.json, result)
    print(json.dumps({name: value for name, value in result.items() if isinstance(value, float)}))


if __name__ == "__main__":
    main()
