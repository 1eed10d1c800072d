"""Fixtures of the tracking tests: projects and stores."""

from tests.tracking.conftest import (  # noqa: F401
    empty_store,
    ended,
    mirror,
    no_other_store,
    params,
    project,
    short_code,
    synced,
    unused_port,
)
