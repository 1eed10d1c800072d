"""Prefect flows on top of DVC: every stage of dvc.yaml is a task. DVC decides what is up to date; Prefect orders and shows.

Importing this package sets Prefect's environment, because Prefect reads it when it is imported: a home folder per project
(shared by all worktrees), no telemetry, and a long start-up time for its server. A run that a worker starts has already
imported Prefect; the settings that it needs are also in prefect.yaml.
"""

import os
from pathlib import Path

from alpro.lineage import main_checkout

SETTINGS = {
    "PREFECT_HOME": str(main_checkout(Path.cwd()) / ".prefect"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",  # the first start creates the database
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; after five missed ones a run counts as crashed (flows/deploy.py)
    # slots that runs hold (flows/slots.py) would otherwise stay taken for ever after a restart of the server
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
