"""Small synthetic videos, records and a tokenizer for tests."""

from pathlib import Path

import av
import numpy as np

from alpro.data.annotations.records import Question, Record

WORDS = ["a", "red", "blue", "green", "square", "circle", "moves", "left", "right", "up", "down"]
WORDS += ["what", "is", "the", "colour", "of", "it", "where"]


def make_video(path, frames=24, size=64, codec="mpeg4", rate=12, options=None, hue=0):
    """Write a video of a moving bar; frame i has the red level 4 * i, so that frames can be distinguished."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.width = stream.height = size
        stream.pix_fmt, stream.thread_count = "yuv420p", 1
        for i in range(frames):
            pixels = np.full((size, size, 3), hue, np.uint8)
            pixels[..., 0] = (4 * i) % 256
            pixels[:, (2 * i) % size : (2 * i) % size + size // 4, 1] = 200
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return Path(path)


def make_records(folder, number=6, captions=2, questions=2, size=64):
    """Return records with real files: `video0.avi` and so on."""
    records = []
    for i in range(number):
        path = make_video(folder / f"video{i}.avi", frames=12, size=size, hue=20 * i)
        records.append(
            Record(
                id=f"video{i}",
                path=path,
                captions=tuple(f"a {WORDS[1 + i % 3]} square moves {WORDS[7 + j % 4]}" for j in range(captions)),
                questions=tuple(
                    Question(i * questions + j, "what is the colour of it", ("red", "blue", "mauve")[(i + j) % 3], "what")
                    for j in range(questions)
                ),
            )
        )
    return records


def make_tokenizer(folder):
    """Write and load a BERT tokenizer over WORDS."""
    from transformers import BertTokenizerFast

    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(WORDS)]) + "\n")
    return BertTokenizerFast.from_pretrained(str(folder))
