"""Prefect over DVC: each stage of dvc.yaml is a task; DVC says what is up to date, Prefect shows, orders and repeats.

Importing this package sets Prefect's environment, which Prefect reads when it is imported: its own home per project
(shared by all worktrees), nothing sent anywhere, patience with the first start of a server that Prefect starts itself.
A run that a worker starts has imported Prefect before: what such a run needs stands in prefect.yaml too.
"""

import os
from pathlib import Path

from alpro.lineage import home

SETTINGS = {
    "PREFECT_HOME": str(home(Path.cwd()) / ".prefect"),
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",  # it makes its database the first time
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; flows/deploy.py calls a run that is silent for five of them crashed
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
}
for name, value in SETTINGS.items():
    os.environ.setdefault(name, value)
