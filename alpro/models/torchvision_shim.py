"""Imported for its effect, before timm or transformers: makes a CUDA build of torchvision importable beside a CPU torch.

The registry's torchvision is compiled for CUDA. Beside a CPU torch its operators are missing and `import torchvision`
fails, and with it timm and transformers' models. No detection operator is used here, so declaring the two schemas that
the import asks for is enough. A torchvision that imports is left as it is.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]  # half imported
    OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # the schemas live as long as this object
    for operator in ("nms", "qnms"):
        OPERATORS.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
