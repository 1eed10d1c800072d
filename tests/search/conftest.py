"""The small videos, models and checkpoints of the evaluation's tests."""

from tests.evaluation.conftest import project, qa_model, records, retrieval_model, settings, tokenizer

__all__ = ["project", "qa_model", "records", "retrieval_model", "settings", "tokenizer"]
