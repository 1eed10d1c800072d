"""MLflow's model registry: alpro-prompter, alpro-pretrain and alpro-<task>, with one version per distinct checkpoint.

A fine-tuned model has the aliases `candidate` (the newest version), `champion` (the version in use) and `previous` (the
champion before). Only the promotion gate and a rollback move the last two.

Each name is imported when it is first used, because a registered model imports this package whenever it is loaded.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    "promotion": ("Promotion", "promote", "rollback"),
    "registration": ("origin_tags", "register_checkpoints"),
    "store_status": ("StoreStatus", "status"),
    "sync_store": ("register", "sync"),
    "versions": ("CHECKPOINT", "checkpoints", "find_version"),
}


def __getattr__(name: str) -> Any:
    """Import the module of an exported name."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
