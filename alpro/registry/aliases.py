"""`champion` and `previous`: how they move, and how a move that was not the gate's is recognised.

The gate writes its record at the version that it lets through, and the version's number at the model. An alias that was
moved or deleted in MLflow's pages has changed neither, and so is no way around the gate: a candidate meets the champion of
the record.
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


def recorded(client: MlflowClient, model: str) -> ModelVersion | None:
    """The version that the gate or a rollback made champion last, wherever the alias points; None where none has passed."""
    passed = {str(one.version): one for one in client.search_model_versions(f"name = '{model}'") if GATE in one.tags}
    if not passed:
        return None
    last = client.get_registered_model(model).tags.get(RECORDED, "")
    return passed.get(last) or max(passed.values(), key=lambda one: (json.loads(one.tags[GATE])["at"], int(one.version)))


def rival(client: MlflowClient, candidate: ModelVersion) -> ModelVersion | None:
    """Whom a candidate must beat: the champion of the record, whatever the alias says; of the alias where there is no record.

    A candidate that is this champion itself meets the one before.
    """
    champion = recorded(client, candidate.name) or at(client, candidate.name, CHAMPION)
    listed = (champion, at(client, candidate.name, PREVIOUS))
    return next((one for one in listed if one and not same(one, candidate)), None)


def same(one: ModelVersion | None, other: ModelVersion | None) -> bool:
    """Whether both are the same version of a model, or neither is there."""
    return (one and str(one.version)) == (other and str(other.version))


def rollback(client: MlflowClient, model: str) -> tuple[str, str]:
    """Give `champion` back to the one before; after a move by hand, to the last that the gate let through.

    Returns the versions' numbers, from (`none` where the alias is gone) and to. Raises TrackingError where there is nothing to
    go back to.
    """
    champion, last = at(client, model, CHAMPION), recorded(client, model)
    if champion is None and last is None:
        raise TrackingError(f"{model} has no champion; `alpro promote` makes one")
    if last is not None and not same(champion, last):
        target: str | None = str(last.version)
    else:
        previous = at(client, model, PREVIOUS)
        target = str(previous.version) if previous else None
    was = str(champion.version) if champion else "none"
    if target is None or target == was:
        raise TrackingError(f"{model}: there is no champion before version {was} to go back to")
    client.set_registered_model_tag(model, RECORDED, target)
    client.set_registered_model_alias(model, CHAMPION, target)
    return was, target


def alias_mismatch(client: MlflowClient, model: str) -> str | None:
    """What is wrong with the champion's alias, in one line; None where the gate or a rollback left it as it is."""
    champion, last = at(client, model, CHAMPION), recorded(client, model)
    if same(champion, last):
        return None
    told = f"the last that passed is version {last.version}" if last else "none has passed yet"
    found = f"is version {champion.version} without the gate's record" if champion else "is gone"
    done = "moved" if champion else "deleted"
    return f"{model}@{CHAMPION} {found} ({told}): {done} by hand; `alpro promote` or `alpro rollback` puts it right"
