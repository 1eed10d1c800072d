"""The four pre-training objectives as functions of tensors (paper section 3): VTC, VTM, MLM, PEM."""

from alpro.objectives.mlm import masked_positions, mlm_loss
from alpro.objectives.pem import pem_loss
from alpro.objectives.vtc import vtc_loss
from alpro.objectives.vtm import hard_negatives, vtm_loss

__all__ = ["hard_negatives", "masked_positions", "mlm_loss", "pem_loss", "vtc_loss", "vtm_loss"]
