"""The served stack of the tests of `alpro.served`."""

from tests.served.conftest import checkpoints, others, project, stack, videos

__all__ = ["checkpoints", "others", "project", "stack", "videos"]
