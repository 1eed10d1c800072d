"""The report: entries of the summary, a page without external links, tables at the terminal."""

from __future__ import annotations

import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from alpro.config import Params
from alpro.errors import DataError
from alpro.files.atomic import sha256
from alpro.report import make_report, results_table, show_report
from alpro.report.table import title

BASELINE = {
    "command": "make baseline", "date": "2026-01-31", "recipe": "sample", "seeds": [1, 2, 3],
    "tasks": {"msrvtt_ret": {"metric": "r1", "pretrained": [30, 31, 32], "scratch": [20, 22, 21]}},
}  # fmt: skip


@pytest.fixture
def made(reports: Path, params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the records with their report, in a folder with a committed baseline."""
    shutil.copytree(reports, tmp_path / "reports")
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/baseline.json").write_text(json.dumps(BASELINE))
    monkeypatch.chdir(tmp_path)
    make_report(params, "reports")
    return tmp_path / "reports"


def test_summary_has_an_entry_for_each_evaluation(made: Path) -> None:
    summary = json.loads((made / "summary.json").read_text())
    assert set(summary) == {"msrvtt_ret", "msvd_qa", "msrvtt_ret_zeroshot"}
    for name in ("msrvtt_ret", "msrvtt_ret_zeroshot"):
        entry = summary[name]
        assert {"n", "r1", "r5", "r10", "medianR", "meanR", "ci95", "chance", "video2text"} <= set(entry)
        assert set(entry["ci95"]) == {"r1", "r5", "r10", "medianR", "meanR"} == set(entry["video2text"]["ci95"])
    qa = summary["msvd_qa"]
    assert {"n", "overall_acc", "what_acc", "who_acc", "ratios", "ci95", "majority", "blind", "one_frame"} <= set(qa)
    for look in ("blind", "one_frame"):
        assert {"r1", "ci95", "gain"} <= set(summary["msrvtt_ret"][look])
        assert {"overall_acc", "ci95", "gain"} <= set(qa[look])
    assert "blind" not in summary["msrvtt_ret_zeroshot"]


def test_page_loads_nothing(made: Path) -> None:
    page = (made / "index.html").read_text()
    markup = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert page.count("<script>") == 4, "vega, vega-lite, vega-embed, and the page's own"
    assert not re.search(r'(?:src|href)\s*=\s*"(?!#|data:)', markup)
    assert not re.search(r"url\((?!data:)|@import", markup)
    assert set(re.findall(r"https?://[^\s\"]+", markup)) == {"https://vega.github.io/schema/vega-lite/v5.json"}, "never loaded"
    frames = re.findall(r"data:image/jpeg;base64,([^)]+)", page)
    assert 5 <= len(frames) == len(set(frames)) <= 10  # each video is embedded once, however often it is shown


def test_page_is_well_formed_and_shows_every_part(made: Path) -> None:
    page = (made / "index.html").read_text()
    checker = Nesting()
    checker.feed(page)
    assert checker.open == []
    for part in ("Results", "Pre-training vs. training from scratch", "Training", "Ranks and answers", "Example test videos"):
        assert f">{part}</h2>" in page and f">{part}</a>" in page
    assert set(re.findall(r'href="#([^"]+)"', page)) == set(re.findall(r'<h2 id="([^"]+)"', page))
    assert "make baseline" in page and "2026-01-31" in page and "+10.0" in page and "31.0<small>± 1.0</small>" in page
    assert "MSRVTT retrieval, zero-shot" in page and "MSVD-QA" in page
    charts = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    assert len(charts) == 2 + 3  # loss and validation of the training; ranks twice, accuracy by type once
    assert all(chart["data"]["values"] for chart in charts)


def test_same_records_give_the_same_bytes(made: Path, params: Params) -> None:
    before = sha256(made / "index.html"), sha256(made / "summary.json")
    make_report(params, "reports")
    assert (sha256(made / "index.html"), sha256(made / "summary.json")) == before


def test_report_needs_neither_baseline_nor_videos(made: Path, params: Params) -> None:
    Path("benchmarks/baseline.json").write_text("{}")
    absent = {name: dataset.model_copy(update={"videos": str(made / "none")}) for name, dataset in params.datasets.items()}
    make_report(params.model_copy(update={"datasets": absent}), "reports")
    page = (made / "index.html").read_text()
    assert "training from scratch" not in page and 'class="film none"' in page


def test_texts_of_the_data_are_escaped(made: Path, params: Params) -> None:
    file = made / "evaluate/msrvtt_ret/predictions.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps({**row, "text": "</script><b>&amp;"}) + "\n" for row in rows))
    make_report(params, "reports")
    page = (made / "index.html").read_text()
    assert "&lt;/script&gt;&lt;b&gt;&amp;amp;" in page and "</script><b>" not in page


def test_records_of_another_recipe_are_ignored(made: Path, params: Params) -> None:
    with pytest.raises(DataError, match="no evaluation of recipe other"):
        make_report(params.model_copy(update={"recipe": "other"}), "reports")


def test_damaged_records_are_reported(made: Path, params: Params) -> None:
    (made / "evaluate/msvd_qa/metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"msvd_qa/metrics.json: line 1, column 2: not valid JSON"):
        make_report(params, "reports")


def test_baseline_with_a_missing_value_is_reported(made: Path, params: Params) -> None:
    broken = {**BASELINE, "seeds": [1, 2]}
    Path("benchmarks/baseline.json").write_text(json.dumps(broken))
    with pytest.raises(DataError, match=r"baseline\.json: .*msrvtt_ret: 2 seeds"):
        make_report(params, "reports")


def test_terminal_output_has_the_figures_and_the_reports_path(
    made: Path, params: Params, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    summary = json.loads((made / "summary.json").read_text())
    Path("dvc.lock").touch()
    assert [table.row_count for table in results_table(summary)] == [2, 1]
    show_report(params, "reports")
    printed = capsys.readouterr().out
    assert f"{summary['msvd_qa']['overall_acc']:.1f}" in printed
    assert "reports/index.html" in printed and f"{Path(sys.executable).with_name('mlflow')} ui" in printed
    assert "git add dvc.lock && git commit" in printed.splitlines()[-1]
    monkeypatch.setattr(sys, "executable", str(Path(".venv/bin/python").absolute()))
    show_report(params, "reports")
    printed = capsys.readouterr().out
    assert " .venv/bin/mlflow ui" in printed, "relative to the checkout"
    assert "http://127.0.0.1:5000/#/experiments?workflowType=machine_learning" in printed
    assert "git add dvc.lock && git commit" in printed.splitlines()[-1]


def test_report_is_made_again_over_its_own_files(made: Path, params: Params) -> None:
    before = (made / "index.html").read_bytes()
    make_report(params, "reports")
    assert (made / "index.html").read_bytes() == before


def test_titles_use_the_usual_names() -> None:
    assert title("didemo_ret_zeroshot") == "DiDeMo retrieval, zero-shot"
    assert title("msvd_qa") == "MSVD-QA"
    assert title("kitchen_ret") == "kitchen retrieval" and title("other") == "other"


class Nesting(HTMLParser):
    """Parser that fails if tags are not properly nested."""

    EMPTY = ("meta", "link", "br", "img", "input", "rect", "line", "circle", "polyline")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.EMPTY:
            assert self.open.pop() == tag
