"""The checkpoints of a pipeline state as registered models: alpro-prompter, alpro-pretrain, alpro-<task>.

One version stands for one content. The aliases `candidate`, `champion` and `previous` of a fine-tuned model say which is
the newest, which is in use, and which was before; only the gate and a rollback move the last two.
"""

from alpro.registry.promote import promote, rollback
from alpro.registry.register import made_by, register_checkpoints
from alpro.registry.status import Status, status
from alpro.registry.sync import register, sync
from alpro.registry.versions import CHECKPOINT, checkpoints, find_version

__all__ = [
    "CHECKPOINT",
    "Status",
    "checkpoints",
    "find_version",
    "made_by",
    "promote",
    "register",
    "register_checkpoints",
    "rollback",
    "status",
    "sync",
]
