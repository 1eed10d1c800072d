"""The models and objectives give the released code's numbers, with one test per golden."""

from __future__ import annotations

import pytest

from tests.parity import CASES, worst


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if c.slow else []) for n, c in CASES.items()])
def test_golden(name):
    _, differences = worst(name)
    off = [f"{d.what}: {d.error:.2e} > {d.tolerance:.0e}" for d in differences if not d.error <= d.tolerance]
    assert not off, "\n".join([f"{len(off)} of {len(differences)} quantities differ", *off[:20]])
