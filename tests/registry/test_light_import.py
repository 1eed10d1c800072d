"""A registered model imports little of this package when it is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from alpro import registry

IMPORTS = """
import sys
from alpro.registry import alias_warning, aliases
from alpro.serving import service
print(*(name for name in sys.modules if name.startswith("alpro.")))
"""


def test_loading_a_registered_model_imports_no_launcher_and_no_gate() -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", IMPORTS], cwd=root, capture_output=True, text=True, check=True)
    unneeded = ("alpro.launch", "alpro.evaluation", "alpro.registry.promotion", "alpro.registry.sync_store")
    assert [name for name in result.stdout.split() if name.startswith(unneeded)] == []


def test_all_names_of_the_package_can_be_imported() -> None:
    for name in registry.__all__:
        assert getattr(registry, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'absent'"):
        registry.absent  # noqa: B018
