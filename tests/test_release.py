"""Version, changelog and extras say what they are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import alpro

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_changelog_has_a_dated_section_for_the_version() -> None:
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[([^\]]+)\](?: - (\d{4}-\d\d-\d\d))?$", changes, re.MULTILINE)
    if ".dev" not in alpro.__version__:
        assert dict(sections).get(alpro.__version__), f"no dated section [{alpro.__version__}] in CHANGELOG.md"
    assert sections[0][0] == "Unreleased"


def test_extra_with_the_name_of_a_package_installs_it() -> None:
    extras = PROJECT["optional-dependencies"]
    packages = {name: [re.split(r"[<>=!\[ ]", line)[0].lower() for line in lines] for name, lines in extras.items()}
    named = {"horovod", "torchcodec", "tensorboard", "gradio", "dvc", "mlflow", "prefect", "torch", "psutil"}
    assert [name for name in packages if name in named and name not in packages[name]] == []
