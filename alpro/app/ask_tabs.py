"""Ask and Match: questions and texts on one clip."""

from __future__ import annotations

import gradio as gr

from alpro.app.context import Page, Stopwatch, told
from alpro.app.markup import answered_by, bars
from alpro.app.picker import ClipPicker, clip_picker


def ask_tab(page: Page) -> ClipPicker:
    """Add the tab of questions; return its choice of a clip."""
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=2, min_width=300):
            picker = clip_picker(page, "ask")
        with gr.Column(scale=3, min_width=300):
            question = gr.Textbox(label="Question", placeholder="what moves to the left ?", elem_id="question", max_lines=1)
            button = gr.Button("Ask", variant="primary", elem_id="ask")
            answers = gr.HTML(elem_id="answers", padding=False, min_height=120)

    def ask(clip: str | None, asked: str) -> str:
        watch, path = Stopwatch(), page.clip(clip)
        asked = page.served.limits.text(asked, "question")
        reply = page.wait(page.served.engine.ask(path, asked, page.timeout_s, clip or ""))
        rows = [(answer.answer, answer.probability, f"{100 * answer.probability:.1f} %") for answer in reply.value]
        return answered_by(reply.version, watch.seconds) + bars(rows, "answers")

    inputs = [picker.clip, question]
    gr.on([button.click, question.submit], told(ask), inputs, answers, api_name="ask", concurrency_limit=16)
    return picker


def match_tab(page: Page) -> ClipPicker:
    """Add the tab that compares texts with a clip; return its choice of a clip."""
    with gr.Row(elem_classes="split"):
        with gr.Column(scale=2, min_width=300):
            picker = clip_picker(page, "match")
        with gr.Column(scale=3, min_width=300):
            texts = gr.Textbox(
                label="Texts, one a line", placeholder="a red ball moves\na blue cube turns", lines=4, elem_id="texts"
            )
            button = gr.Button("Match", variant="primary", elem_id="match")
            matches = gr.HTML(elem_id="matches", padding=False, min_height=120)

    def match(clip: str | None, lines: str) -> str:
        watch, path = Stopwatch(), page.clip(clip)
        given = page.served.limits.many_texts([line for line in (lines or "").splitlines() if line.strip()], "text")
        reply = page.wait(page.served.engine.match(path, given, page.timeout_s, clip or ""))
        ranked = sorted(reply.value, key=lambda row: -(row.probability or 0.0))
        rows = [(row.text, row.probability, f"{100 * row.probability:.1f} %  ·  VTC {row.similarity:.3f}") for row in ranked]
        return answered_by(reply.version, watch.seconds) + bars(rows, "texts by VTM's probability")

    gr.on(button.click, told(match), [picker.clip, texts], matches, api_name="match", concurrency_limit=16)
    return picker
