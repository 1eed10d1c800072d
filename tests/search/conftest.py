"""Small videos, models and checkpoints, from the tests of the evaluation."""

from tests.evaluation.conftest import preprocessing, project, qa_model, records, retrieval_model, tokenizer

__all__ = ["preprocessing", "project", "qa_model", "records", "retrieval_model", "tokenizer"]
