"""The served stack of the tests of `alpro.served`."""

from tests.served.conftest import checkpoints, project, stack, videos

__all__ = ["checkpoints", "project", "stack", "videos"]
