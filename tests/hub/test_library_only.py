"""`alpro.from_pretrained` needs only the packages of the library: those in pyproject.toml without an extra."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from alpro.hub.model import export_folder
from tests.serving.conftest import TEXTS, VIDEO

ROOT = Path(__file__).parents[2]

# Hides every package that no requirement of the library brings, then loads a model and asks it.
LOAD = """
import importlib.machinery, sys

finder, hidden = importlib.machinery.PathFinder, set(sys.argv[4].split(","))
find = finder.find_spec
finder.find_spec = staticmethod(
    lambda name, path=None, target=None: None if name.split(".")[0] in hidden else find(name, path, target)
)
import alpro
model = alpro.from_pretrained(sys.argv[1])
print(len(model.ask(sys.argv[2], sys.argv[3])))
model.save_pretrained(sys.argv[5])
"""


def installed_with(requirements: list[str]) -> set[str]:
    """Return the distributions that these requirements bring, with those that they need, as far as they are installed."""
    found: set[str] = set()
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()  # type: ignore[index]
        if name in found or "extra ==" in requirement:
            continue
        try:
            waiting += metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # of another platform
        found.add(name)
    return found


@pytest.fixture
def hidden() -> set[str]:
    """Top-level modules of all installed distributions that the library does not require."""
    library = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = installed_with(library)
    named = {
        module: {re.sub(r"[-_.]+", "-", name).lower() for name in names}
        for module, names in metadata.packages_distributions().items()
    }
    return {module for module, names in named.items() if not names & allowed and module.isidentifier()} - {"alpro", "flows"}


def test_pipeline_packages_are_no_requirements_of_the_library(hidden: set[str]) -> None:
    assert {"mlflow", "dvc", "prefect", "great_expectations"} <= hidden
    assert not {"torch", "transformers", "huggingface_hub", "psutil", "numpy"} & hidden


def test_model_is_loaded_asked_and_saved_without_them(hidden: set[str], checkpoints, tmp_path: Path) -> None:
    export_folder(checkpoints / "qa", tmp_path / "qa")
    command = [sys.executable, "-c", LOAD, tmp_path / "qa", VIDEO, TEXTS[1], ",".join(sorted(hidden)), tmp_path / "saved"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("3") and (tmp_path / "saved" / "README.md").is_file()


def test_hidden_package_that_is_needed_would_be_noticed(tmp_path: Path) -> None:
    """A package that the library needs, hidden in the same way, makes the program fail."""
    command = [sys.executable, "-c", LOAD, tmp_path, "v", "q", "torch", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "No module named 'torch'" in done.stderr
