"""No value of params.yaml may begin a shell command of its own, and no key may be given twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from alpro.config import load
from alpro.errors import ConfigError

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "recipes/sample.yaml"
NAMES = ["my set", "a;touch x", "msvd.qa"]
PATHS = ["init.prompter", "init.teacher", "init.pretrain", "init.finetune", "evaluate.msvd_qa.checkpoint"]


@pytest.mark.parametrize(
    "name", ["sample; touch x", "my set", "a;touch x", "msvd.qa", "-x", "../up", "$(id)", "`id`", "a\nb", ""]
)
def test_names_that_a_shell_or_dvc_would_interpret_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a valid name: use letters, digits, `_` and `-`"):
        load(SAMPLE, [f"recipe={name!r}"])


@pytest.mark.parametrize("section", ["corpora", "datasets", "finetune", "evaluate", "zeroshot", "convert"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_sets_are_restricted_too(section: str, name: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(SAMPLE.read_text())
    entry = next(iter(raw[section].values())) if raw.get(section) else {"source": "a", "output": "b"}
    raw[section] = {**(raw.get(section) or {}), name: entry}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="is not a valid name"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    "key", ["init.prompter", "init.teacher", "init.pretrain", "init.finetune", "evaluate.msvd_qa.checkpoint"]
)
@pytest.mark.parametrize(
    "path", ["/data/my models/x", "x; touch y", "$HOME/x", "-x", "a'b", 'a"b', "a|b", "a&b", "a>b", "a\nb"]
)
def test_paths_that_a_shell_would_interpret_are_refused(key: str, path: str) -> None:
    with pytest.raises(ConfigError, match=r"may contain letters, digits and .* only; rename the folder, or link to it"):
        load(SAMPLE, [f"{key}={json.dumps(path)}"])


@pytest.mark.parametrize("path", ["models/x", "/data/Größe/x.pt", "../up/x-1.2_3", "~/x", "a@b=c+d,e:f%20"])
def test_ordinary_paths_are_accepted(path: str) -> None:
    assert load(SAMPLE, [f"init.finetune={path}"]).init.finetune == path


def test_a_key_given_twice_is_refused_by_name_and_line(tmp_path: Path) -> None:
    text = SAMPLE.read_text()
    (tmp_path / "params.yaml").write_text(text + "seed: 7\n")
    with pytest.raises(ConfigError, match=rf"key 'seed' is given twice; remove one.* line {len(text.splitlines()) + 1}"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text(text.replace("launch:\n", "launch:\n  threads: 1\n", 1))
    with pytest.raises(ConfigError, match="key 'threads' is given twice"):
        load(tmp_path / "params.yaml")
