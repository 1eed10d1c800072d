"""Work pools whose runs work in clones of their own: processes, Docker containers or Kubernetes jobs.

`python -m flows.deploy --pool NAME --type TYPE --repository URL` makes one. Its job variables are those of prefect.yaml
(definitions.pools); deploy/pools/ has the job templates of containers. flows/clone.py is the side of the run.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

import flows  # noqa: F401  before Prefect: its environment

if TYPE_CHECKING:
    from prefect.runner.storage import GitRepository

TYPES = ("process", "docker", "kubernetes")
CLONE = "alpro"  # name of the clone's folder
SECRET_WORDS = ("PASSWORD", "SECRET", "TOKEN", "KEY", "AUTH")
BLOCK = "{{ prefect.blocks."


@dataclass(frozen=True, slots=True)
class Pool:
    """A pool, as its options describe it. `secret`: name of a Prefect Secret block with an access token for git."""

    name: str
    type: str
    repository: str
    branch: str | None = None
    secret: str | None = None
    image: str | None = None
    limit: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    def job_variables(self, definition: Mapping[str, Any]) -> dict[str, Any]:
        """Return the job variables of its deployments: those of prefect.yaml with the options' image and variables."""
        variables = dict(definition["job_variables"])
        variables["env"] = {**variables["env"], **self.env}
        return variables | ({"image": self.image} if self.image else {})

    async def storage(self) -> GitRepository:
        """Return what Prefect clones for a run. Raises ValueError if there is no such Secret block."""
        from prefect.blocks.system import Secret
        from prefect.runner.storage import GitCredentials, GitRepository

        credentials = None
        if self.secret:
            try:
                credentials = GitCredentials(access_token=await Secret[str].aload(self.secret))
            except ValueError:
                remedy = "make one in Prefect's pages under Blocks"
                raise ValueError(f"--secret {self.secret}: Prefect has no Secret block of this name; {remedy}") from None
        return GitRepository(self.repository, credentials=credentials, name=CLONE, branch=self.branch)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a pool to the command line of flows.deploy."""
    add = parser.add_argument_group("another pool, whose runs work in clones that the worker makes").add_argument
    add("--pool", metavar="NAME", help="name of the pool; its deployments are called FLOW/FLOW-NAME")
    add("--type", choices=TYPES, default="process", help="what runs a flow (default: process)")
    add("--repository", metavar="URL", help="git repository to clone; experiments are pushed to it")
    add("--branch", help="branch to clone (default: that of the repository)")
    add("--secret", metavar="BLOCK", help="Prefect Secret block with an access token (default: the worker's git configuration)")
    add("--image", help="image of Docker and Kubernetes (default: that of `make image`)")
    add("--limit", type=int, help="most runs at a time (default: one; no limit for Kubernetes)")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="variable of the runs; may be repeated")


def from_options(options: argparse.Namespace) -> Pool | None:
    """Return the pool that the options describe, or None without --pool. Raises ValueError if they do not fit."""
    if not options.pool:
        if options.repository:
            raise ValueError("--repository: name the pool with --pool")
        return None
    if not options.repository:
        raise ValueError(f"--pool {options.pool}: name the repository that its workers clone with --repository")
    if options.image and options.type == "process":
        raise ValueError("--image: a process pool has no image")
    if options.limit is not None and options.limit < 1:
        raise ValueError(f"--limit {options.limit}: must be at least 1")
    if urlsplit(options.repository).password or (options.repository.startswith("http") and "@" in options.repository):
        raise ValueError("--repository: its user name and password would be shown in Prefect's pages; use --secret")
    env = variables(options.env)
    return Pool(
        options.pool, options.type, options.repository, options.branch, options.secret, options.image, options.limit, env
    )


def variables(words: Sequence[str]) -> dict[str, str]:
    """Return the variables of `NAME=VALUE` words. Raises ValueError for a malformed word or a secret in clear text."""
    pairs = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not name.isidentifier() or not equals:
            raise ValueError(f"--env {word}: must be NAME=VALUE")
        hidden = value.startswith(BLOCK)
        if not hidden and (any(part in name.upper() for part in SECRET_WORDS) or urlsplit(value).password):
            raise ValueError(
                f"--env {name}: its value would be shown in Prefect's pages; "
                f"name a Secret block instead: {name}='{BLOCK}secret.NAME }}}}'"
            )
        pairs[name] = value
    return pairs


def definition(root: Path, pool: Pool) -> dict[str, Any]:
    """Return the entry of prefect.yaml for the type of a pool."""
    content = yaml.safe_load((root / "prefect.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["definitions"]["pools"][pool.type]
    return found


async def make(root: Path, pool: Pool) -> None:
    """Create the pool if it does not exist. Raises ValueError if there is one of another type."""
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    entry = definition(root, pool)
    async with get_client() as client:
        try:
            existing = await client.read_work_pool(pool.name)
        except ObjectNotFound:
            template = yaml.safe_load((root / entry["template"]).read_text(encoding="utf-8")) if "template" in entry else {}
            limit = pool.limit or entry["limit"]
            await client.create_work_pool(
                WorkPoolCreate(name=pool.name, type=pool.type, concurrency_limit=limit, base_job_template=template)
            )
            return
        if existing.type != pool.type:
            raise ValueError(f"--pool {pool.name}: is a pool of type {existing.type}; choose another name")
        if pool.limit:
            await client.update_work_pool(pool.name, WorkPoolUpdate(concurrency_limit=pool.limit))
