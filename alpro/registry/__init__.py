"""MLflow's model registry: alpro-prompter, alpro-pretrain and alpro-<task>, with one version per distinct checkpoint.

A fine-tuned model has the aliases `candidate` (the newest version), `champion` (the version in use) and `previous` (the
champion before). Only the promotion gate and a rollback move the last two.
"""

from alpro.registry.promotion import Promotion, promote, rollback
from alpro.registry.registration import origin_tags, register_checkpoints
from alpro.registry.store_status import StoreStatus, status
from alpro.registry.sync_store import register, sync
from alpro.registry.versions import CHECKPOINT, checkpoints, find_version

__all__ = [
    "CHECKPOINT",
    "Promotion",
    "StoreStatus",
    "checkpoints",
    "find_version",
    "origin_tags",
    "promote",
    "register",
    "register_checkpoints",
    "rollback",
    "status",
    "sync",
]
