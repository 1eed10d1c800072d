"""`champion` and `previous`: how they move, and how a move that was not the gate's is recognised.

The gate writes its record at the version that it lets through, and the version's number at the model. An alias that was
moved in MLflow's pages has changed neither.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from alpro.errors import TrackingError
from alpro.registry.versions import CHAMPION, PREVIOUS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

GATE = "alpro.gate"  # on a version: the record of the gate that let it through, as JSON
RECORDED = "alpro.champion"  # on the model: the version that the gate, or a rollback, made champion last


def at(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """The version that carries an alias; None where none does, or there is no such model."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def crown(client: MlflowClient, version: ModelVersion, before: ModelVersion | None, record: dict[str, Any]) -> None:
    """Make a version the champion, with the gate's record; the one that it beat becomes `previous`.

    The alias moves last: whoever is killed before has a champion as it was, and a record that says more than is true, which
    `by_hand` names.
    """
    client.set_model_version_tag(version.name, version.version, GATE, json.dumps(record, sort_keys=True))
    if before is not None:
        client.set_registered_model_alias(version.name, PREVIOUS, before.version)
    client.set_registered_model_tag(version.name, RECORDED, str(version.version))
    client.set_registered_model_alias(version.name, CHAMPION, version.version)


def before(client: MlflowClient, version: ModelVersion) -> ModelVersion | None:
    """The last other version that the gate made champion."""
    recorded = client.get_registered_model(version.name).tags.get(RECORDED)
    if recorded and recorded != str(version.version):
        return client.get_model_version(version.name, recorded)
    previous = at(client, version.name, PREVIOUS)
    return previous if previous and previous.version != version.version else None


def rollback(client: MlflowClient, model: str) -> tuple[str, str]:
    """Give `champion` back to the one before; after a move by hand, to the last that the gate let through.

    Returns the versions' numbers, from and to. Raises TrackingError where there is nothing to go back to.
    """
    champion = at(client, model, CHAMPION)
    if champion is None:
        raise TrackingError(f"{model} has no champion; `alpro promote` makes one")
    recorded = client.get_registered_model(model).tags.get(RECORDED)
    previous = at(client, model, PREVIOUS)
    target = recorded if recorded and recorded != str(champion.version) else str(previous.version) if previous else None
    if target is None or target == str(champion.version):
        raise TrackingError(f"{model}: there is no champion before version {champion.version} to go back to")
    client.set_registered_model_tag(model, RECORDED, target)
    client.set_registered_model_alias(model, CHAMPION, target)
    return str(champion.version), target


def by_hand(client: MlflowClient, model: str) -> str | None:
    """What is wrong with the champion's alias, in one line; None where the gate or a rollback put it where it is."""
    champion = at(client, model, CHAMPION)
    if champion is None:
        return None
    recorded = client.get_registered_model(model).tags.get(RECORDED)
    if recorded == str(champion.version) and GATE in champion.tags:
        return None
    last = f"the last that passed is version {recorded}" if recorded else "none has passed yet"
    return (
        f"{model}@{CHAMPION} is version {champion.version} without the gate's record ({last}): moved by hand; "
        f"`alpro promote` or `alpro rollback` puts it right"
    )
