"""Look inside: entities that the prompter sees in random crops, and where a word looks in a clip."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from alpro.app.context import Page, told
from alpro.app.markup import answered_by, bars, picture, text
from alpro.app.picker import ClipPicker, clip_picker
from alpro.data.media.read import read_frames as read_pixels
from alpro.served.inference import encode_clips, read_frames
from alpro.served.look import Crop, Word, see_entities, see_words

SIDE = 224  # pixels of a shown frame, squeezed to a square as the model reads it
CROPS = 4
PICK = """
element.addEventListener('click', event => {
  const chip = event.target.closest('button[data-word]');
  if (!chip || !element.contains(chip)) return;
  const parts = element.querySelectorAll('[data-word]');
  parts.forEach(part => part.classList.toggle('chosen', part.dataset.word === chip.dataset.word));
});
"""


def look_tab(page: Page) -> ClipPicker:
    """Add the tab; return its choice of a clip."""
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=2, min_width=300):
            picker = clip_picker(page, "look")
            sentence = gr.Textbox(label="Text", placeholder="a red ball moves to the left", elem_id="look-text", max_lines=1)
            words = gr.Button("Where do the words look?", variant="primary", elem_id="look-words")
            crops = gr.Button("Which entities are in random crops?", elem_id="look-crops")
        with gr.Column(scale=3, min_width=300):
            heat = gr.HTML(elem_id="heat", js_on_load=PICK, padding=False, min_height=60)
            entities = gr.HTML(elem_id="entities", padding=False, min_height=60)
    draws = gr.State(0)

    def look(clip: str | None, written: str) -> str:
        path = page.clip(clip)
        written = page.served.limits.text(written, "text")
        version = page.served.models.version("search")
        service = version.service
        (tokens,) = encode_clips(service, [read_frames(service, path)])
        found = see_words(service, tokens, written)
        frames = read_pixels(path, service.model.num_frames, SIDE, service.frames)
        return answered_by(version) + _heat_maps(frames, found)

    def draw(clip: str | None, drawn: int) -> tuple[str, int]:
        path = page.clip(clip)
        version = page.served.models.version("search")
        prompter = page.prompters.of(version)
        found = see_entities(prompter, read_frames(version.service, path), CROPS, drawn)
        frame = read_pixels(path, 1, SIDE, "uniform")[0]
        by = f'<p class="by">Crops as in pre-training, labelled by the prompter of <b>{text(prompter.name)}</b></p>'
        return by + _crops(frame, found), drawn + 1

    gr.on([words.click, sentence.submit], told(look), [picker.clip, sentence], heat, api_name="look", concurrency_limit=4)
    crops.click(told(draw, (gr.skip(),)), [picker.clip, draws], [entities, draws], api_name="crops", concurrency_limit=4)
    return picker


def _heat_maps(frames: NDArray[np.uint8], words: Sequence[Word]) -> str:
    """Return the frames with one overlay for each word; the chosen word's is visible."""
    chosen = max(range(len(words)), key=lambda n: float(words[n].heat.max())) if words else 0
    chips = "".join(
        f'<button data-word="{n}" class="chip{" chosen" if n == chosen else ""}" '
        f'title="{100 * word.share:.0f} % of its attention goes to the frames">{text(word.word)}</button>'
        for n, word in enumerate(words)
    )
    layers = "".join(
        f'<img data-word="{n}" class="heat{" chosen" if n == chosen else ""}" alt="" '
        f'src="{picture(_colours(word.heat), lossy=False)}">'
        for n, word in enumerate(words)
    )
    shown = "".join(
        f'<figure class="frame"><img src="{picture(frame)}" alt="frame {n}">{layers}<figcaption>frame {n}</figcaption></figure>'
        for n, frame in enumerate(frames, 1)
    )
    note = (
        "Attention of the last multimodal layer from the chosen word to the patches, mean over heads; red is the highest. "
        "The clip's patches are averaged over time, so the map is the same on every frame."
    )
    return f'<div class="chips">{chips}</div><div class="frames">{shown}</div><p class="note">{note}</p>'


def _colours(heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a heat map (side, side) as RGBA, from transparent blue to red."""
    from matplotlib import colormaps

    scaled = (heat - heat.min()) / max(float(np.ptp(heat)), 1e-12)
    colours = colormaps["turbo"](scaled)
    colours[..., 3] = 0.15 + 0.55 * scaled
    return (255 * colours).astype(np.uint8)


def _crops(frame: NDArray[np.uint8], crops: Sequence[Crop]) -> str:
    shown = picture(frame)
    cards = []
    for crop in crops:
        left, top, width, height = (f"{100 * side:.2f}%" for side in crop.box)
        rows = [(entity, probability, f"{100 * probability:.0f} %") for entity, probability in crop.entities]
        box = f'<span class="box" style="left:{left};top:{top};width:{width};height:{height}"></span>'
        cards.append(
            f'<article class="crop"><figure class="frame"><img src="{shown}" alt="middle frame">{box}</figure>'
            f"{bars(rows, 'entities')}</article>"
        )
    return f'<div class="crops">{"".join(cards)}</div>'
