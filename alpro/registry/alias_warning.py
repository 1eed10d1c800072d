"""Warning for a served champion that the promotion gate did not set."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

TIMEOUT_S = "5"  # an unreachable registry must not delay a service


def alias_warning(model_folder: Path, name: str | None) -> str | None:
    """Return one line if this model is a champion that the gate did not set, or if the registry cannot tell; else None.

    model_folder: folder of the MLflow model; name: the registered model. Without MLFLOW_TRACKING_URI there is no registry
    to ask, and the answer is None.
    """
    if not name or not os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from alpro.registry import aliases

    model_id = yaml.safe_load((model_folder / "MLmodel").read_text(encoding="utf-8")).get("model_id")
    for variable, value in (("MLFLOW_HTTP_REQUEST_TIMEOUT", TIMEOUT_S), ("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")):
        os.environ.setdefault(variable, value)
    client = MlflowClient()
    try:
        champion = aliases.version_at(client, name, "champion")
        is_champion = champion is not None and champion.source == f"models:/{model_id}"
        return aliases.alias_mismatch(client, name) if is_champion else None
    except MlflowException as error:
        return f"{name}: the registry could not tell whether this champion passed the gate ({str(error)[:200]})"
