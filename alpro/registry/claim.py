"""Claim on a registered model: one program at a time moves its champion, also if several machines share an MLflow server.

MLflow cannot move an alias on the condition that it still points to a version. So each program writes a tag of its own to the
model and then reads all tags: of two programs that do this at the same time, at least one sees the other's tag. It then
removes its own and tries again later.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

from alpro.files.locks import this_process
from alpro.terminal import logs

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logs.get(__name__)
CLAIM = "alpro.claim."  # beginning of the tag of the model; its value names the process
RETRY_S = 0.5
DEAD_S = 60.0  # a claim is held for a few requests, so after this time its process must have been killed


@contextmanager
def claimed(client: MlflowClient, model: str) -> Iterator[None]:
    """Claim a registered model, which must exist. Waits for other claims, and removes one that stays for DEAD_S."""
    own = f"{CLAIM}{uuid4().hex}"
    first_seen_s: dict[str, float] = {}
    try:
        while True:
            client.set_registered_model_tag(model, own, this_process())
            tags = client.get_registered_model(model).tags
            others = {name: holder for name, holder in tags.items() if name.startswith(CLAIM) and name != own}
            if not others:
                break
            client.delete_registered_model_tag(model, own)
            for name, holder in others.items():
                if name not in first_seen_s:
                    log.info("waiting for another promotion of %s (%s)", model, holder)
                waited_s = time.monotonic() - first_seen_s.setdefault(name, time.monotonic())
                if waited_s > DEAD_S:
                    log.warning("%s: removing the claim of %s, which has not ended it for %.0f s", model, holder, waited_s)
                    client.delete_registered_model_tag(model, name)
            time.sleep(RETRY_S * (1 + random.random()))
        yield
    finally:
        client.delete_registered_model_tag(model, own)
