"""The models: TimeSformer, BERT's two halves, ALPRO's four tasks, the prompter, and their weights."""

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
