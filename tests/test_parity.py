"""Every golden is compared: as a case of the parity table, or by tests that `TESTED` names."""

from __future__ import annotations

import pytest

from tests.goldens_recipe import GOLDENS
from tests.parity import CASES, TESTED
from tests.parity_table import ROOT

# prefixes of golden files whose case has another prefix
PARTS = {"state_dict_info_": "state_dict_", "state_dict_manifest_": "state_dict_"}


def test_every_golden_is_compared() -> None:
    left = set()
    for path in GOLDENS.glob("*.json"):
        name = path.stem
        for start, of in PARTS.items():
            name = name.replace(start, of)
        name = name.removesuffix("_grads")
        if name not in TESTED and not any(case.startswith(name) for case in CASES):
            left.add(path.name)
    assert not left


@pytest.mark.parametrize("name", TESTED)
def test_tests_that_compare_a_golden_exist_and_name_it(name: str) -> None:
    for test in TESTED[name]:
        file, _, function = test.partition("::")
        text = (ROOT / file).read_text()
        assert f"\ndef {function}(" in text and name in text
