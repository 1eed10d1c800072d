"""Sources of the served models: the registry's champion, else the newest checkpoint on disk, else files that are named.

A file that is named on the command line (`--checkpoint`) comes before both for its kind of task: whoever names it means it.
"""

from __future__ import annotations

import importlib.util
import json
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from alpro.checkpoints.layout import CONFIG, WEIGHTS
from alpro.config import Params
from alpro.errors import ConfigError, nearest
from alpro.registry import aliases
from alpro.registry.versions import CHAMPION, label
from alpro.served.versions import ROLES, TASKS, Origin, Role
from alpro.serving import single_video
from alpro.serving.service import Service
from alpro.tracking import store

REGISTRY = threading.Lock()  # `store.opened` sets environment variables, so one thread at a time uses it


@dataclass(frozen=True, slots=True)
class Found:
    """A model that could be served. `identity` changes whenever another one should be loaded."""

    identity: str
    name: str
    origin: Origin
    load: Callable[[], Service] = field(compare=False)


@dataclass(frozen=True, slots=True)
class NamedFile:
    """A checkpoint that the command line names, with the files that an official one needs."""

    checkpoint: str
    step: str = "best"
    tokenizer: str | None = None
    answers: str | None = None


class Sources:
    """Finds the model of each role. `root` is the project; `params` is None outside of one."""

    def __init__(
        self, root: Path, params: Params | None, files: Sequence[NamedFile] = (), tasks: Mapping[Role, str | None] | None = None
    ) -> None:
        """Load the named files. `tasks`: a task (such as msvd_qa) instead of all. Raises ConfigError, and as `load` does."""
        self.root, self.params = root, params
        self._seen: dict[Role, tuple[object, Found | None]] = {}  # the last look at the registry, with the state of its file
        self.tasks = {role: self._tasks(role, (tasks or {}).get(role)) for role in ROLES}
        self.files: dict[Role, Found] = {}
        for file in files:
            service = single_video.load(
                file.checkpoint, step=file.step, tokenizer=file.tokenizer, answers=_answers_of(file, file.checkpoint)
            )
            role = next((role for role in ROLES if service.task in TASKS[role]), None)
            if role is None:
                raise ConfigError(
                    f"{file.checkpoint}: a {service.task} checkpoint cannot be served; name a retrieval or qa one"
                )
            if role in self.files:
                raise ConfigError(f"{file.checkpoint}: --checkpoint names two models that {role}; name one of each kind")
            self.files[role] = Found(file.checkpoint, file.checkpoint, "file", partial(_loaded, service))

    def find(self, role: Role) -> Found | None:
        """Return the model to serve now, or None. Raises TrackingError if the registry does not answer."""
        return self.files.get(role) or self._champion(role) or self._newest_checkpoint(role)

    def _tasks(self, role: Role, only: str | None) -> tuple[str, ...]:
        kind = {"search": "retrieval", "ask": "qa"}[role]
        known = [name for name, dataset in self.params.datasets.items() if dataset.task == kind] if self.params else []
        if only is not None and only not in known:
            raise ConfigError(f"task {only!r}: no {kind} data set of params.yaml has this name{nearest(only, known)}")
        return tuple(known if only is None else [only])

    def _champion(self, role: Role) -> Found | None:
        if not self.tasks[role] or importlib.util.find_spec("mlflow") is None or not store.exists(store.store_uri(self.root)):
            return None
        state = self._registry_state()
        if role in self._seen and state is not None and self._seen[role][0] == state:
            return self._seen[role][1]  # a file that has not changed holds the same aliases
        found = None
        with REGISTRY, store.opened(self.root) as opened:
            for task in self.tasks[role]:
                version = aliases.version_at(opened.client, f"alpro-{task}", CHAMPION)
                if version is not None:
                    name = label(version)
                    found = Found(f"registry:{name}", name, "champion", partial(self._unpacked, name))
                    break
        self._seen[role] = (state, found)
        return found

    def _registry_state(self) -> object:
        """Return sizes and times of the registry's SQLite file, or None for a server, which has to be asked."""
        path = store.sqlite_path(store.store_uri(self.root))
        if path is None:
            return None
        files = (path, path.with_name(f"{path.name}-wal"))
        return [(file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.exists()]

    def _unpacked(self, name: str) -> Service:
        """Load a registered version. Its files are copied first, so that they may be deleted meanwhile."""
        from alpro.registry.evaluate import unpack
        from alpro.registry.versions import find

        with tempfile.TemporaryDirectory(prefix="alpro-model-") as temporary:
            with REGISTRY, store.opened(self.root) as opened:
                packed = unpack(opened, find(opened, f"models:/{name}"), Path(temporary) / "model")
            return Service.load(packed.checkpoint, packed.frames, packed.max_text_tokens, "/")  # type: ignore[arg-type]

    def _newest_checkpoint(self, role: Role) -> Found | None:
        """Return the newest fine-tuned checkpoint below models/, or the newest pre-trained one, which searches as well."""
        for pattern in ("models/*/finetune/*", *(("models/*/pretrain",) if role == "search" else ())):
            found = []
            for folder in self.root.glob(pattern):
                try:
                    changed = (folder / WEIGHTS).stat().st_mtime_ns
                    task = json.loads((folder / CONFIG).read_text(encoding="utf-8"))["task"]
                except (OSError, ValueError, KeyError, TypeError):  # being written, or no checkpoint
                    continue
                if task in TASKS[role] and (
                    not self.tasks[role] or pattern.endswith("pretrain") or folder.name in self.tasks[role]
                ):
                    found.append((changed, folder))
            if found:
                changed, folder = max(found)
                name = folder.relative_to(self.root).as_posix()
                return Found(f"{name} {changed}", name, "checkpoint", partial(single_video.load, folder))
        return None


def _answers_of(file: NamedFile, checkpoint: str) -> str | None:
    """Return the answer list for a named file; a directory of our own has its own."""
    return None if Path(checkpoint).is_dir() and (Path(checkpoint) / "answers.json").is_file() else file.answers


def _loaded(service: Service) -> Service:
    return service
