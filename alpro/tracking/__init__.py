"""MLflow: live runs, and the sync that makes the store a mirror of the records on disk (nothing here imports it early)."""

from alpro.tracking.live import LiveRun, live
from alpro.tracking.status import Status, status
from alpro.tracking.store import store_uri
from alpro.tracking.sync import Synced, sync

__all__ = ["LiveRun", "Status", "Synced", "live", "status", "store_uri", "sync"]
