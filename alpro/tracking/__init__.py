"""MLflow: live runs, and the store that mirrors the records on disk. MLflow itself is imported only when it is used."""

from alpro.tracking.live import LiveRun, live
from alpro.tracking.store import store_uri

__all__ = ["LiveRun", "live", "store_uri"]
