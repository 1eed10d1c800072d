"""Shim that makes a CUDA build of torchvision importable with a CPU build of torch; import it before timm or transformers.

The registry's torchvision is compiled for CUDA. With a CPU torch its operators are missing, so `import torchvision` fails,
and with it timm and transformers' models. This project uses no detection operator, so it is enough to declare the two
schemas that the import asks for. A torchvision that imports is left unchanged.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # partly imported
    OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # the schemas live as long as this object
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
