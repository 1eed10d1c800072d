"""What MLflow shows of the state on disk, without changing anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from alpro.config import Params
from alpro.registry.versions import CHECKPOINT, checkpoints, find_version
from alpro.tracking import runs
from alpro.tracking.runs import LIVE, PARENT, RECORD, STAGE
from alpro.tracking.state import State, read_state
from alpro.tracking.store import TrackingStore, exists, opened, redacted, store_uri
from alpro.tracking.sync import find_parent


@dataclass(frozen=True)
class Status:
    """`stages`: each record's run, as `complete`, `half` (an interrupted sync), `live` (being written) or `missing`.

    `models`: each checkpoint on disk, with its version and aliases (`alpro-msvd_qa/2 (candidate)`), or `not registered`.
    """

    store: str
    parent: str | None
    stages: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether `alpro track sync` would find nothing to do."""
        return set(self.stages.values()) <= {"complete"} and "not registered" not in self.models.values()

    def __str__(self) -> str:
        lines = [f"store    {self.store}", f"parent   {self.parent or 'none for this state'}"]
        for kind, table in (("run", self.stages), ("model", self.models)):
            lines += [f"{kind:8} {name:36} {what}" for name, what in table.items()]
        return "\n".join([*lines, "complete" if self.complete else "`alpro track sync` fills in what is missing"])


def status(root: Path | str, params: Params) -> Status:
    """Compare the store with the disk. Raises TrackingError where the store can't be used, or no record exists."""

    state = read_state(Path(root), params)
    uri = store_uri(state.root)
    found = Status(redacted(uri), None, dict.fromkeys((r.stage for r in state.records), "missing"))
    found.models.update(dict.fromkeys((c.path for c in checkpoints(state)), "not registered"))
    if exists(uri):
        with opened(state.root) as store:
            return _compare(store, state, found)
    return found


def _compare(store: TrackingStore, state: State, found: Status) -> Status:

    parent = find_parent(store, state)
    children = list(runs.search(store.client, store.experiment, runs.tag(PARENT, parent.info.run_id))) if parent else []
    complete = {run.data.tags[RECORD] for run in children if RECORD in run.data.tags}
    half = {run.data.tags.get(STAGE) for run in children}
    written = filter(runs.being_written, runs.search(store.client, store.experiment, runs.tag(LIVE, "open")))
    live = {run.data.tags.get(STAGE) for run in written}
    for record in state.records:
        if record.digest in complete:
            found.stages[record.stage] = "complete"
        elif record.stage in live:
            found.stages[record.stage] = "live"
        elif record.stage in half:
            found.stages[record.stage] = "half"
    for checkpoint in checkpoints(state):
        version = find_version(store, checkpoint.model, CHECKPOINT, checkpoint.digest())
        if version is not None:
            aliases = f" ({', '.join(sorted(version.aliases))})" if version.aliases else ""
            found.models[checkpoint.path] = f"{version.name}/{version.version}{aliases}"
    return Status(found.store, parent.info.run_id if parent else None, found.stages, found.models)
