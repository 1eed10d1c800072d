"""Folders of videos that can be searched: an index for each, made for the model in use, and made again when the model changes.

Until the index for a new model is complete, searches use the old model with its own index, so none fails or mixes the two.
Indexes are in the state folder (`.state/served/`); a later start finds them there and encodes only new videos.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from alpro.errors import AlproError, DataError
from alpro.files.locks import take_lock
from alpro.files.state import state_folder
from alpro.search.index import IndexUpdate, Progress, VideoIndex, build
from alpro.search.query import Searcher
from alpro.served.following import ServedModels
from alpro.served.limits import RequestError
from alpro.served.versions import Version
from alpro.terminal import logs

LOG = logs.get(__name__)
KEPT = 3  # indexes of a folder: of the newest models, so that a rollback needs no new one
LOCK_S = 600.0  # to wait for another process that indexes the same folder


@dataclass(frozen=True, eq=False)
class Collection:
    """A folder with its index, and the version of the model that made it."""

    folder: Path
    version: Version
    searcher: Searcher
    update: IndexUpdate


class Collections:
    """The searchable folders of this process."""

    def __init__(self, models: ServedModels, say: Callable[[str], None] = lambda line: None, state: Path | None = None) -> None:
        self.models, self.say = models, say
        self.state = (state or state_folder().absolute()) / "served"
        self.problems: dict[Path, str] = {}
        self._open: dict[Path, Collection] = {}
        self._lock = threading.Lock()  # one indexing at a time: each uses all cores
        models.changed.append(self._follow)

    def get(self, folder: Path) -> Collection:
        """Return an indexed folder. Raises RequestError: 404 if the folder has disappeared, 409 if it is not indexed."""
        collection = self._open.get(folder)
        if not folder.is_dir():
            raise RequestError(
                404, "folder_missing", f"The folder {folder.name} does not exist any more; was it moved or unmounted?"
            )
        if collection is None:
            problem = self.problems.get(folder)
            message = f"The folder {folder.name} is not indexed yet."
            raise RequestError(409, "not_indexed", f"{message} {problem}" if problem else message)
        return collection

    def has(self, folder: Path) -> bool:
        """Return True if a folder is indexed."""
        return folder in self._open

    def index(self, folder: Path, progress: Progress = lambda done, total: None) -> Collection:
        """Index a folder for the model in use; only new and changed videos are encoded. Raises RequestError."""
        if not folder.is_dir():
            raise RequestError(404, "folder_missing", f"The folder {folder.name} does not exist.")
        version = self.models.version("search")
        try:
            collection = self._indexed(folder, version, progress)
        except DataError as error:
            self.problems[folder] = str(error)
            raise RequestError(422, "not_indexed", str(error).replace(f"{folder.parent}/", "")) from None
        self.problems.pop(folder, None)
        self._open[folder] = collection
        if (now := self.models.version("search")) is not version:  # the model was replaced meanwhile
            self._start(now)
        return collection

    def _indexed(self, folder: Path, version: Version, progress: Progress) -> Collection:
        home = self.state / hashlib.sha256(str(folder).encode()).hexdigest()[:16]
        home.mkdir(parents=True, exist_ok=True)
        with self._lock, take_lock(home / "lock", "another indexing of this folder", DataError, wait_s=LOCK_S):
            place = home / version.weights[:16]
            update = build(version.service, folder, place, progress=progress)
            searcher = Searcher(version.service, VideoIndex.open(place))
            place.touch()  # the newest one is removed last
            _remove_old(home)
        return Collection(folder, version, searcher, update)

    def _follow(self, version: Version) -> None:
        if version.role == "search" and self._open:
            self._start(version)

    def _start(self, version: Version) -> None:
        threading.Thread(target=self._renew, args=(version, list(self._open)), name="alpro-index", daemon=True).start()

    def _renew(self, version: Version, folders: Sequence[Path]) -> None:
        for folder in folders:
            try:
                if self.models.version("search") is version and self._open[folder].version is not version:
                    self._open[folder] = self._indexed(folder, version, lambda done, total: None)
                    self.problems.pop(folder, None)
                    self.say(f"search: {folder.name} is indexed for {version.title}")
            except (AlproError, OSError) as error:
                self._report(folder, version, str(error))
            except Exception as error:  # searches go on with the old model and its index
                LOG.exception("%s was not indexed", folder)
                self._report(folder, version, f"{type(error).__name__}; see the server's log")

    def _report(self, folder: Path, version: Version, problem: str) -> None:
        self.problems[folder] = f"{folder.name} was not indexed for {version.title}: {problem}"
        self.say(f"search: {self.problems[folder]}")


def _remove_old(home: Path) -> None:
    """Remove all but the newest indexes of a folder. Only folders that hold nothing but an index are touched."""
    indexes = [
        place for place in home.iterdir() if place.is_dir() and {p.name for p in place.iterdir()} <= {"gallery", "tokens"}
    ]
    for place in sorted(indexes, key=lambda place: place.stat().st_mtime_ns)[:-KEPT]:
        shutil.rmtree(place, ignore_errors=True)
