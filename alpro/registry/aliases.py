"""The aliases `champion` and `previous`: how they move, and how a move outside the gate is detected.

The gate writes its record as a tag of the version that passes, and the version's number as a tag of the model. Moving or
deleting an alias in MLflow's pages changes neither, so it does not bypass the gate: a candidate is still compared with
the recorded champion.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from alpro.errors import TrackingError
from alpro.registry.versions import CHAMPION, PREVIOUS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

GATE = "alpro.gate"  # tag of a version: the record of the gate that it passed, as JSON
RECORDED = "alpro.champion"  # tag of the model: the version that the gate or a rollback last made champion


def version_at(client: MlflowClient, model: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias points to, or None if the alias or the model does not exist."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(model, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def set_champion(client: MlflowClient, version: ModelVersion, before: ModelVersion | None, record: dict[str, Any]) -> None:
    """Make a version the champion and store the gate's record; the version that it beat becomes `previous`.

    The alias moves last. If the process dies before that, the old champion stays and `alias_mismatch` reports the mismatch.
    Raises TrackingError if another program moved the alias at the same moment, for example MLflow's pages.
    """
    client.set_model_version_tag(version.name, version.version, GATE, json.dumps(record, sort_keys=True))
    if before is not None:
        client.set_registered_model_alias(version.name, PREVIOUS, before.version)
    client.set_registered_model_tag(version.name, RECORDED, str(version.version))
    client.set_registered_model_alias(version.name, CHAMPION, version.version)
    if not same_version(now := version_at(client, version.name, CHAMPION), version):
        moved = f"was moved to version {now.version}" if now else "was deleted"
        raise TrackingError(f"{version.name}@{CHAMPION} {moved} at the same moment; run `alpro promote` again")


def recorded_champion(client: MlflowClient, model: str) -> ModelVersion | None:
    """Return the version that the gate or a rollback last made champion, whatever the alias says; None if none passed yet."""
    versions = client.search_model_versions(f"name = '{model}'")
    passed = {str(version.version): version for version in versions if GATE in version.tags}
    if not passed:
        return None
    last = client.get_registered_model(model).tags.get(RECORDED, "")
    return passed.get(last) or max(passed.values(), key=lambda v: (json.loads(v.tags[GATE])["at"], int(v.version)))


def incumbent(client: MlflowClient, candidate: ModelVersion) -> ModelVersion | None:
    """Return the version a candidate must beat: the recorded champion, or without a record the one of the alias.

    A candidate that is this champion itself is compared with the previous one.
    """
    champion = recorded_champion(client, candidate.name) or version_at(client, candidate.name, CHAMPION)
    versions = (champion, version_at(client, candidate.name, PREVIOUS))
    return next((version for version in versions if version and not same_version(version, candidate)), None)


def same_version(a: ModelVersion | None, b: ModelVersion | None) -> bool:
    """Return True if both are the same version of a model, or both are None."""
    return (a and str(a.version)) == (b and str(b.version))


def rollback(client: MlflowClient, model: str) -> tuple[str, str]:
    """Move `champion` back to the previous version or, if the alias was moved by hand, to the recorded champion.

    Returns the version numbers before (`none` if the alias was deleted) and after. Raises TrackingError if there is no
    version to go back to.
    """
    champion, last = version_at(client, model, CHAMPION), recorded_champion(client, model)
    if champion is None and last is None:
        raise TrackingError(f"{model} has no champion; `alpro promote` makes one")
    if last is not None and not same_version(champion, last):
        target: str | None = str(last.version)
    else:
        previous = version_at(client, model, PREVIOUS)
        target = str(previous.version) if previous else None
    before = str(champion.version) if champion else "none"
    if target is None or target == before:
        raise TrackingError(f"{model}: there is no champion before version {before} to go back to")
    client.set_registered_model_tag(model, RECORDED, target)
    client.set_registered_model_alias(model, CHAMPION, target)
    return before, target


def alias_mismatch(client: MlflowClient, model: str) -> str | None:
    """Return one line if the champion alias differs from the gate's record, else None."""
    champion, last = version_at(client, model, CHAMPION), recorded_champion(client, model)
    if same_version(champion, last):
        return None
    expected = f"the last version that passed is {last.version}" if last else "no version has passed yet"
    if champion:
        problem = f"is version {champion.version}, which has no record of the gate ({expected}): moved by hand"
    else:
        problem = f"is missing ({expected}): deleted by hand"
    return f"{model}@{CHAMPION} {problem}; run `alpro promote` or `alpro rollback` to correct it"
