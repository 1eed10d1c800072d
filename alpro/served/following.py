"""The models in use, which follow the registry: a promotion or rollback is picked up while requests are answered.

A new version is loaded aside and replaces the old one in one step. A request keeps the version that it began with.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from alpro.errors import AlproError
from alpro.files import fingerprint
from alpro.served.limits import RequestError
from alpro.served.sources import Found, Sources
from alpro.served.versions import ROLES, Role, Version
from alpro.terminal import logs

LOG = logs.get(__name__)
POLL_S = 3.0
RETRY_S = 60.0  # before a version that could not be loaded is tried again
NO_MODEL = {
    "search": "There is no model that can search or match texts. Train one (`make repro`), or name one with --checkpoint.",
    "ask": "There is no model that can answer questions. Train one (`make repro`), or name one with --checkpoint.",
}


class ServedModels:
    """The version in use of each role."""

    def __init__(self, sources: Sources, device: torch.device, say: Callable[[str], None] = lambda line: None) -> None:
        self.sources, self.device, self.say = sources, device, say
        self.problems: dict[Role, str] = {}
        self.changed: list[Callable[[Version], None]] = []  # called after a version came into use
        self.housekeeping: list[Callable[[], None]] = []  # called at every look at the sources
        self._identities: dict[Role, str] = {}
        self._versions: dict[Role, Version] = {}
        self._failed: dict[str, int] = {}  # polls to wait, by identity
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="alpro-follow", daemon=True)

    def start(self) -> None:
        """Load the models, then follow their sources in the background."""
        self.check()
        self._thread.start()

    def stop(self) -> None:
        """End the following."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    def version(self, role: Role) -> Version:
        """Return the version in use. Raises RequestError (503) if there is none."""
        version = self._versions.get(role)
        if version is None:
            raise RequestError(503, "no_model", self.problems.get(role) or NO_MODEL[role])
        return version

    def current(self) -> dict[Role, Version]:
        """Return the versions in use."""
        return dict(self._versions)

    def check(self) -> None:
        """Look once for other versions and load them. Problems are kept in `problems`; the old version stays in use."""
        for role in ROLES:
            try:
                found = self.sources.find(role)
                if found is not None and found.identity != self._identities.get(role) and self._may_try(found):
                    self._use(role, found)
                if found is None or found.identity == self._identities.get(role):
                    self.problems.pop(role, None)
            except (AlproError, OSError) as error:
                self._report(role, f"{error}")
            except Exception as error:  # whatever it is, the thread has to go on following
                LOG.exception("%s: the model could not be replaced", role)
                self._report(role, f"the model could not be replaced ({type(error).__name__}); see the server's log")

    def _follow(self) -> None:
        while not self._end.wait(POLL_S):
            self.check()
            for task in self.housekeeping:
                task()

    def _use(self, role: Role, found: Found) -> None:
        try:
            service = found.load()
        except Exception:
            self._failed[found.identity] = round(RETRY_S / POLL_S)
            raise
        service.model.to(self.device).eval().requires_grad_(False)
        version = Version(found.name, found.origin, role, service, fingerprint.weights(service.model))
        self._versions[role], self._identities[role] = version, found.identity
        self.say(f"{role}: {version.title} is in use")
        for inform in self.changed:
            inform(version)

    def _may_try(self, found: Found) -> bool:
        self._failed[found.identity] = self._failed.get(found.identity, 0) - 1
        return self._failed[found.identity] < 0

    def _report(self, role: Role, problem: str) -> None:
        if self.problems.get(role) != problem:
            self.say(f"{role}: {problem}")
        self.problems[role] = problem


def best_device() -> torch.device:
    """Return the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
