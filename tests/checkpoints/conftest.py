"""The small models and batches of the models' tests."""

from tests.models.conftest import batch, small

__all__ = ["batch", "small"]
