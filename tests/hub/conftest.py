"""Small checkpoints (those of the serving tests) and a local server that speaks the Hub's protocol."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving.conftest import checkpoints  # noqa: F401

from .server import Hub


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A running server without repositories."""
    with Hub() as server:
        yield server
