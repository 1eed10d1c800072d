"""A command that writes one file replaces only a file that it made, or that the user gave up with --replace."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from typer.testing import CliRunner

from alpro.cli.main import app
from alpro.errors import OutputError
from alpro.files.outputs import check_file, check_page, generator_tag


def test_existing_file_is_refused_unless_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(OutputError, match=r"mine: exists; give another name, or --replace to overwrite it"):
        check_file(tmp_path / "mine", False)
    assert check_file(tmp_path / "mine", True) == tmp_path / "mine"
    assert check_file(tmp_path / "new" / "file", False) == tmp_path / "new" / "file"
    assert not (tmp_path / "new").exists()


def test_link_folder_and_source_are_refused(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("read")
    (tmp_path / "broken").symlink_to("nowhere")
    (tmp_path / "link").symlink_to("source")
    with pytest.raises(OutputError, match="broken: exists"):
        check_file(tmp_path / "broken", False)
    for name in ("source", "link"):
        with pytest.raises(OutputError, match="is the file that is read"):
            check_file(tmp_path / name, True, tmp_path / "source")
    with pytest.raises(OutputError, match="is a folder"):
        check_file(tmp_path, True)
    with pytest.raises(OutputError, match="source is a file, not a folder"):
        check_file(tmp_path / "source" / "below", True)


@pytest.mark.parametrize(
    "content", ["", "<html>mine</html>", generator_tag("alpro search"), "x" * 2000 + generator_tag("alpro x")]
)
def test_page_of_another_origin_is_refused(tmp_path: Path, content: str) -> None:
    page = tmp_path / "index.html"
    assert check_page(page, "alpro x") == page
    page.write_text(content)
    with pytest.raises(OutputError, match="exists and was not made by `alpro x`"):
        check_page(page, "alpro x")
    assert page.read_text() == content
    page.write_text(f"<html>{generator_tag('alpro x')}")
    assert check_page(page, "alpro x") == page


def test_unpickled_table_replaces_nothing_unasked(tmp_path: Path) -> None:
    source, table = tmp_path / "a.pkl", tmp_path / "a.csv"
    source.write_bytes(pickle.dumps([{"video": "v1", "text": "a red ball"}]))
    table.write_text("mine")
    run = CliRunner().invoke
    refused = run(app, ["data", "unpickle", str(source), str(table)])
    assert isinstance(refused.exception, OutputError) and table.read_text() == "mine"
    assert run(app, ["data", "unpickle", str(source), str(table), "--replace"]).exit_code == 0
    assert table.read_text().splitlines() == ["video,text", "v1,a red ball"]
    same = run(app, ["data", "unpickle", str(source), str(source), "--replace"])
    assert isinstance(same.exception, OutputError)


def test_exported_weights_replace_nothing_unasked(tmp_path: Path) -> None:
    target = tmp_path / "x.pt"
    target.write_text("mine")
    refused = CliRunner().invoke(app, ["weights", "export", str(tmp_path / "none"), str(target)])
    assert isinstance(refused.exception, OutputError) and target.read_text() == "mine"
    same = CliRunner().invoke(app, ["weights", "export", str(target), str(target), "--replace"])
    assert "is the file that is read" in str(same.exception) and target.read_text() == "mine"


def test_search_page_replaces_only_a_search_page(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("mine")
    command = ["search", "a red ball", "--checkpoint", "none", "--index", "none", "--html", str(tmp_path / "page.html")]
    done = CliRunner().invoke(app, command)
    assert "was not made by `alpro search`" in str(done.exception) and (tmp_path / "page.html").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.html", "<html>my site"),
        ("summary.json", json.dumps({"mine": 1})),
        ("summary.json", "{}"),
        ("summary.json", "text"),
    ],
)
def test_report_replaces_only_a_report(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    recipe = Path(__file__).parents[2] / "recipes/tiny.yaml"
    done = CliRunner().invoke(app, ["report", "make", "--root", str(tmp_path), "--params", str(recipe)])
    assert isinstance(done.exception, OutputError) and "alpro report make" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == content
