"""Compiled training (`launch.compile`): torch.compile for the blocks of the video encoder, which do most of the arithmetic.

All full batches have one shape there. Text is left out, because its length differs between batches.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch

from alpro.errors import ConfigError
from alpro.models.encoders import Alpro
from alpro.models.timesformer import run_block

BACKEND = "inductor"
C = ("gcc", "cc", "clang")  # Triton compiles the code that starts its kernels
CPP = ("g++",)  # on a CPU the kernels themselves are C++


def compile_blocks(model: Alpro, device: torch.device, backend: Any = BACKEND) -> None:
    """Compile the blocks of a model's video encoder, for training only; evaluation runs them as they are.

    All blocks share one graph; a last block of which only [CLS] is needed has its own. They are compiled in the first step.
    Raises ConfigError if the machine cannot compile.
    """
    if backend == BACKEND:
        check_compiler(device.type)
    model.visual_encoder.model.compiled = torch.compile(run_block, backend=backend, dynamic=False)


def check_compiler(device_type: str) -> None:
    """Raise ConfigError if torch.compile lacks a compiler, or Python's headers, on this machine."""
    on_gpu = device_type == "cuda"
    own = os.environ.get("CC") if on_gpu else os.environ.get("CXX")
    names = (own,) if own else C if on_gpu else CPP
    missing = []
    if not any(shutil.which(name) for name in names):
        missing.append(f"a compiler ({' or '.join(names)})")
    if not Path(sysconfig.get_paths()["include"], "Python.h").is_file():
        missing.append("the headers of Python (Debian: python3-dev)")
    if missing:
        raise ConfigError(f"launch.compile: torch.compile needs {' and '.join(missing)}; install them, or set it to false")
