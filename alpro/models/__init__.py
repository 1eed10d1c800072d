"""ALPRO's models: TimeSformer, BERT as text and multimodal encoder, the tasks' models, and the prompter."""

import alpro.models.torchvision_shim  # noqa: F401  before anything that imports timm or transformers
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
