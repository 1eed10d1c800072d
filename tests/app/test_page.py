"""The web page in a browser: each tab, uploads, bad input, and a promotion while 200 requests are answered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from alpro.tracking import store
from tests import browser
from tests.served.conftest import CLIPS, register
from tests.serving.conftest import TEXTS
from tests.tracking.conftest import empty_store, no_other_store, params
from tests.tracking.tracked_project import with_store

__all__ = ["empty_store", "no_other_store", "params"]
ROOT = Path(__file__).parents[2]
REAL = ROOT / "tests/videos/made_two_streams_from_nasa.mp4"
TASKS = {"search": "alpro-msrvtt_ret", "ask": "alpro-msvd_qa"}
FOLLOWED_S = 10.0  # a promotion is picked up within this time
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium on PATH (Debian: apt-get install chromium)"),
]


@dataclass
class Site:
    """A running page: its address, its project, its folder of videos and the folder of its temporary files."""

    address: str
    root: Path
    videos: Path
    temporary: Path

    def move(self, role: str, number: int) -> None:
        """Move the alias `champion`, as a promotion does at its end."""
        with store.opened(self.root) as opened:
            opened.client.set_registered_model_alias(TASKS[role], "champion", str(number))


@contextmanager
def running(root: Path, videos: Path, folder: Path) -> Iterator[str]:
    """Run `alpro app` for the time of a block; check that it leaves no temporary files and no traceback."""
    temporary = folder / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ALPRO_STATE": str(folder / "state"), "TMPDIR": str(temporary)}
    command = [sys.executable, "-m", "alpro", "app", "--videos", str(videos), "--port", "0"]
    with (folder / "errors.txt").open("w+") as errors:
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout is not None
        yield next(line for line in process.stdout if line.startswith("http")).strip()
        process.send_signal(signal.SIGTERM)
        assert process.wait(180) == 0
        process.stdout.close()
        assert "Traceback" not in (folder / "errors.txt").read_text()
    assert [path.name for path in temporary.glob("alpro-*")] == []


@pytest.fixture(scope="module")
def site(
    checkpoints: Path, others: Path, videos: Path, empty_store: Path, params: Any, tmp_path_factory: Any
) -> Iterator[Site]:
    """The page of a project with two registered versions of each kind, of which the first is the champion."""
    folder = tmp_path_factory.mktemp("site")
    root, clips = folder / "project", Path(shutil.copytree(videos, folder / "videos"))
    shutil.copytree(checkpoints / "pretrain", root / "models/tiny/pretrain")
    (root / "models/tiny/pretrain/entities.txt").write_text("ball 3\n<b>cube</b> 2\nstar 1\n".replace("<b>cube</b>", "cube"))
    (root / "params.yaml").write_text(yaml.safe_dump(params.model_dump(mode="json")))
    with_store(root, empty_store)
    register(root, TASKS["search"], checkpoints / "retrieval", others / "retrieval-2")
    register(root, TASKS["ask"], checkpoints / "qa", others / "qa-2")
    with store.opened(root) as opened:
        for model in TASKS.values():
            opened.client.set_registered_model_alias(model, "champion", "1")
            opened.client.set_registered_model_alias(model, "candidate", "2")
    with running(root, clips, folder) as address:
        yield Site(address, root, clips, folder / "tmp")


@pytest.fixture
def page(site: Site) -> Iterator[Any]:
    """The page in a new browser; at the end, nothing was asked of other hosts and no script of a caller has run."""
    with browser.opened() as page:
        dialogs: list[str] = []
        page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
        page.goto(site.address)
        page.locator("#query textarea, #query input").wait_for()
        yield page
        assert [url for url in page.requested if not url.startswith((site.address, "data:", "blob:"))] == []
        assert dialogs == []


def tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def fill(page: Any, place: str, words: str) -> None:
    page.locator(f"{place} textarea, {place} input").first.fill(words)


def search(page: Any, words: str) -> Any:
    fill(page, "#query", words)
    page.locator("#search").click()
    page.locator("#results .title", has_text=f"clips for: {words}").wait_for()
    return page.locator("#results .card")


def choose(page: Any, picker: str, clip: str) -> None:
    fill(page, picker, clip)
    page.keyboard.press("Enter")
    page.locator(f"{picker.removesuffix('-clip')}-player figcaption", has_text=clip).wait_for()


def test_search_plays_a_clip_and_finds_similar_ones(page: Any) -> None:
    cards = search(page, TEXTS[0])
    assert cards.count() == len(CLIPS)
    assert page.locator("#results .version").inner_text() == "alpro-msrvtt_ret/1"
    assert cards.first.locator(".score").count() == 2  # VTM and VTC
    video = cards.first.locator("video")
    cards.first.get_by_role("button", name="Play").click()
    page.wait_for_function("video => video.currentTime > 0 && !video.paused", arg=video.element_handle())
    clip = cards.first.locator("[data-clip]").first.get_attribute("data-clip")
    cards.first.get_by_role("button", name="More like this").click()
    page.locator("#results .title", has_text=f"Clips like {clip}").wait_for()
    assert page.locator("#results .card").count() == len(CLIPS) - 1
    page.locator("#results .card").first.get_by_role("button", name="Ask about it").click()
    page.locator("#question").wait_for()
    page.locator("#ask-player video").wait_for()


def test_index_is_made_with_a_summary(page: Any) -> None:
    page.locator("#index").click()
    page.locator("#index-status .notice", has_text=f"{len(CLIPS)} clips can be searched").wait_for()


def test_ask_match_and_look_inside(page: Any) -> None:
    tab(page, "Ask")
    choose(page, "#ask-clip", CLIPS[0])
    fill(page, "#question", TEXTS[1])
    page.locator("#ask").click()
    page.locator("#answers .bars li").first.wait_for()
    assert page.locator("#answers .bars li").count() == 3  # this model knows three answers
    tab(page, "Match")
    choose(page, "#match-clip", CLIPS[1])
    fill(page, "#texts", "\n".join(TEXTS))
    page.locator("#match").click()
    page.locator("#matches .bars li").first.wait_for()
    assert page.locator("#matches .bars li").count() == len(TEXTS)
    tab(page, "Look inside")
    choose(page, "#look-clip", CLIPS[2])
    fill(page, "#look-text", "a red circle moves")
    page.locator("#look-words").click()
    page.locator("#heat .frames").wait_for()
    page.locator("#heat .chip", has_text="circle").click()
    page.locator("#heat img.heat.chosen").first.wait_for()
    chosen = page.locator("#heat .chip.chosen").inner_text()
    assert chosen == "circle" and page.locator("#heat img.heat.chosen").count() == 2  # one for each frame
    page.locator("#look-crops").click()
    page.locator("#entities .notice, #entities .crops").first.wait_for()


def test_models_are_shown_with_a_warning_for_a_moved_alias(page: Any) -> None:
    tab(page, "Models")
    page.locator("#models .model").first.wait_for()
    assert page.locator("#models .alias", has_text="champion").count() == 2
    assert "moved by hand" in page.locator("#models .notice").first.inner_text()
    page.locator("[data-lineage='alpro-msvd_qa/1']").click()
    page.locator("#lineage pre", has_text="models:/alpro-msvd_qa/1").wait_for()


def test_upload_is_asked_about_and_deleted(page: Any, site: Site) -> None:
    tab(page, "Ask")
    with page.expect_file_chooser() as chooser:
        page.locator("#ask-upload").click()
    chooser.value.set_files(str(REAL))
    page.locator("#ask-player figcaption", has_text=REAL.name).wait_for()
    fill(page, "#question", TEXTS[1])
    page.locator("#ask").click()
    page.locator("#answers .bars li").first.wait_for()
    assert len(list(site.temporary.glob("alpro-uploads-*/*"))) == 1  # until it is unused, or the page is stopped
    assert list(site.temporary.rglob(REAL.name)) == []  # Gradio's own copy is gone


def test_upload_that_is_no_video_gets_a_sentence(page: Any, tmp_path: Path) -> None:
    (tmp_path / "<b>list<b>.mp4").write_text("#EXTM3U\n/etc/passwd\n")
    tab(page, "Match")
    with page.expect_file_chooser() as chooser:
        page.locator("#match-upload").click()
    chooser.value.set_files(str(tmp_path / "<b>list<b>.mp4"))
    page.locator("#match-player .notice", has_text="is not a video").wait_for()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [("", "The query is empty"), ("x" * 10_000, "The query has 10,000 characters"), (" ", "The query is empty")],
)
def test_bad_query_gets_a_sentence(page: Any, words: str, sentence: str) -> None:
    fill(page, "#query", words)
    page.locator("#search").click()
    page.locator("#results .notice", has_text=sentence).wait_for()


def test_folder_outside_is_refused_and_a_vanished_one_is_reported(page: Any, site: Site) -> None:
    fill(page, "#folder", "/etc")
    page.keyboard.press("Enter")
    page.locator("#folder-problem .notice", has_text="outside of the chosen folder").wait_for()
    fill(page, "#query", TEXTS[0])
    page.locator("#search").click()
    page.locator("#results .notice", has_text="outside of the chosen folder").wait_for()
    shutil.copytree(site.videos / "sub", site.videos / "going")
    fill(page, "#folder", "going")
    page.keyboard.press("Enter")
    assert search(page, TEXTS[0]).count() == 1
    shutil.rmtree(site.videos / "going")
    page.locator("#search").click()
    page.locator("#results .notice", has_text="does not exist").wait_for()


def test_file_names_and_texts_appear_as_text(page: Any) -> None:
    name = CLIPS[3]
    search(page, TEXTS[0])
    assert page.locator("#results figcaption", has_text=name).count() == 1
    tab(page, "Match")
    choose(page, "#match-clip", name)
    words = "<script>alert(1)</script>\n<img src=x onerror=alert(1)>\n${alert(1)} {{this}}"
    fill(page, "#texts", words)
    page.locator("#match").click()
    page.locator("#matches .bars li").first.wait_for()
    assert sorted(page.locator("#matches .label").all_inner_texts()) == sorted(words.split("\n"))


def test_gradio_serves_no_file_of_the_machine(site: Site) -> None:
    for path in ("/etc/passwd", str(site.videos / CLIPS[0]), str(ROOT / "pyproject.toml")):
        for route in ("gradio_api/file=", "file="):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"{site.address}/{route}{urllib.parse.quote(path)}")
            assert refused.value.code in (403, 404)
    foreign = urllib.request.Request(f"{site.address}/config", headers={"Origin": "https://evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(foreign)
    assert refused.value.code == 403


def ask(site: Site, clip: str) -> str:
    """Ask by the page's own queue, as the button does; return the HTML of the answer."""
    call = f"{site.address}/gradio_api/call/ask"
    body = json.dumps({"data": [clip, TEXTS[1]]}).encode()
    request = urllib.request.Request(call, body, {"content-type": "application/json"})
    event = json.load(urllib.request.urlopen(request, timeout=60))["event_id"]
    lines = urllib.request.urlopen(f"{call}/{event}", timeout=60).read().decode().splitlines()
    events = [line.removeprefix("event: ") for line in lines if line.startswith("event: ") and "heartbeat" not in line]
    assert events == ["complete"], lines
    return json.loads(lines[lines.index("event: complete") + 1].removeprefix("data: "))[0]


def test_200_requests_during_a_promotion_and_a_rollback(site: Site, page: Any) -> None:
    tab(page, "Ask")
    promoted = threading.Timer(1.0, site.move, ("ask", 2))
    promoted.start()
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda number: ask(site, CLIPS[number % 3]), range(200)))
    promoted.join()
    end = time.monotonic() + FOLLOWED_S
    assert all('class="bars"' in answer for answer in answers)  # none failed
    while "alpro-msvd_qa/2" not in (last := ask(site, CLIPS[0])):
        assert time.monotonic() < end, last
        time.sleep(0.2)
    assert "alpro-msvd_qa/1" in answers[0]
    page.locator("#in-use", has_text="alpro-msvd_qa/2").wait_for()
    site.move("ask", 1)
    end = time.monotonic() + FOLLOWED_S
    while "alpro-msvd_qa/1" not in ask(site, CLIPS[0]):
        assert time.monotonic() < end
        time.sleep(0.2)


# --- the results of this checkout ----------------------------------------------------------------------------

REPORT = ROOT / "reports/evaluate/msrvtt_ret"
SAMPLE = ROOT / "models/sample/finetune/msrvtt_ret"


@pytest.mark.skipif(not (REPORT.is_dir() and SAMPLE.is_dir()), reason="needs the results of `make repro` in this checkout")
def test_search_finds_the_samples_test_videos_as_often_as_the_report(tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (REPORT / "predictions.jsonl").read_text().splitlines()]
    queries = {row["text"]: row["video"] for row in rows if row["direction"] == "text2video"}
    folder = tmp_path / "videos"
    folder.mkdir()
    for video in set(queries.values()):
        shutil.copy(ROOT / f"data/sample/msrvtt_ret/videos/{video}.mp4", folder)
    project = tmp_path / "project"
    shutil.copytree(SAMPLE, project / "models/sample/finetune/msrvtt_ret")
    found = 0
    with running(project, folder, tmp_path) as address, browser.opened() as page:
        page.goto(address)
        for text, video in queries.items():
            search(page, text)
            found += page.locator("#results .card[data-rank='1'] figcaption").inner_text() == f"{video}.mp4"
    expected = json.loads((REPORT / "metrics.json").read_text())["text2video"]["r1"]
    assert 100 * found / len(queries) >= expected
