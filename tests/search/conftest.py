"""The small videos, models and checkpoints of the evaluation's tests."""

from tests.evaluation.conftest import preprocessing, project, qa_model, records, retrieval_model, tokenizer

__all__ = ["preprocessing", "project", "qa_model", "records", "retrieval_model", "tokenizer"]
