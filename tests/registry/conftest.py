"""The projects and stores of the tracking tests."""

from tests.tracking.conftest import (  # noqa: F401
    empty_store,
    ended,
    mirror,
    no_other_store,
    params,
    project,
    synced,
    unused_port,
)
