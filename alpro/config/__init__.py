"""The types of params.yaml: one typed configuration; unknown keys and contradictions are refused when it is loaded."""

from alpro.config.base import Section
from alpro.config.data import Convert, Corpus, Dataset, Entities, Sample, Text
from alpro.config.evaluation import Evaluate, Evaluation, Gate
from alpro.config.machine import Launch, Loader, Tracking
from alpro.config.model import Model
from alpro.config.overrides import override
from alpro.config.params import Params, load, parse
from alpro.config.training import (
    PEM,
    CorpusTraining,
    Finetuning,
    Init,
    Objectives,
    Pretraining,
    RandAugment,
    Training,
)

__all__ = [
    "PEM",
    "Convert",
    "Corpus",
    "CorpusTraining",
    "Dataset",
    "Entities",
    "Evaluate",
    "Evaluation",
    "Finetuning",
    "Gate",
    "Init",
    "Launch",
    "Loader",
    "Model",
    "Objectives",
    "Params",
    "Pretraining",
    "RandAugment",
    "Sample",
    "Section",
    "Text",
    "Tracking",
    "Training",
    "load",
    "override",
    "parse",
]
