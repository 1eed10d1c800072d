"""MLflow tracking: live runs, and the store that mirrors the records on disk. MLflow is imported only when it is used."""

from alpro.tracking.live_run import LiveRun, live
from alpro.tracking.store import store_uri

__all__ = ["LiveRun", "live", "store_uri"]
