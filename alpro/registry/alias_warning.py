"""Whether the model that is being loaded is a champion that the gate did not make one."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

SECONDS = "5"  # a registry that is down delays no service


def alias_warning(packed: Path, name: str | None) -> str | None:
    """One line about a champion's alias that was moved by hand, or a registry that can't say; None where all is well.

    packed: the folder of the MLflow model; name: the registered model. Without MLFLOW_TRACKING_URI there is no registry to ask.
    """
    if not name or not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from alpro.registry import aliases

    own = yaml.safe_load((packed / "MLmodel").read_text(encoding="utf-8")).get("model_id")
    for variable, value in (("MLFLOW_HTTP_REQUEST_TIMEOUT", SECONDS), ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")):
        os.environ.setdefault(variable, value)
    client = MlflowClient()
    try:
        champion = aliases.at(client, name, "champion")
        return aliases.alias_mismatch(client, name) if champion is not None and champion.source == f"models:/{own}" else None
    except MlflowException as error:
        return f"{name}: the registry could not say whether the gate passed this champion ({str(error)[:200]})"
