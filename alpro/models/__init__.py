"""ALPRO's models: TimeSformer, BERT as text and multimodal encoder, the tasks' models, and the prompter."""

from alpro.models.heads import TASKS, Alpro, Output, Pretrain, QuestionAnswering, Retrieval, build_model, normalize
from alpro.models.prompter import Prompter

__all__ = [
    "TASKS",
    "Alpro",
    "Output",
    "Pretrain",
    "Prompter",
    "QuestionAnswering",
    "Retrieval",
    "build_model",
    "normalize",
]
