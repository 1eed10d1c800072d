"""Saves all state of the team servers to a folder, and makes the servers from such a folder again.

A backup has a dump of each database, a tar file of each bucket, the secrets, and a manifest with their checksums. The databases
are dumped before the buckets: an artifact is written before the record that names it, so the copy has every named artifact.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from alpro.files.atomic import sha256
from alpro.files.locks import LockHeld
from flows.team import postgres, s3
from flows.team.layout import BUCKETS, DATABASES, SECRETS, Team, TeamError, make_secrets, write_private
from flows.team.servers import storage_running

MANIFEST = "manifest.json"
FORMAT = 1


@contextmanager
def storage_available(team: Team) -> Iterator[bool]:
    """Use PostgreSQL and S3 of a running `make team`, or start them for this block. Yields True if they were running."""
    try:
        lock = team.try_lock()
    except LockHeld:
        yield True
        return
    with lock, storage_running(team):
        yield False


def save(team: Team, to: Path | None = None) -> str:
    """Write a backup to a new folder, by default backups/TIME below the team's. Returns one line on it. Raises TeamError."""
    now = datetime.now(UTC)
    to = (to or team.folder / "backups" / now.strftime("%Y-%m-%dT%H%M%SZ")).absolute()
    if to.exists():
        raise TeamError(f"{to}: exists; choose another folder")
    unfinished = to.with_name(to.name + ".unfinished")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True, mode=0o700)
    with storage_available(team):
        for database in DATABASES:
            postgres.client(team, "pg_dump", "--format=custom", f"--file={unfinished / database}.dump", database=database)
        objects = {bucket: _save_bucket(team, bucket, unfinished / f"{bucket}.tar") for bucket in BUCKETS.values()}
    (unfinished / "secrets").mkdir(mode=0o700)
    for name in SECRETS:
        write_private(unfinished / "secrets" / name, team.secret(name) + "\n")
    manifest = {
        "format": FORMAT,
        "made_at": now.isoformat(timespec="seconds"),
        "versions": {"postgresql": postgres.version_of(postgres.binaries(team))}
        | {name: metadata.version(name) for name in ("mlflow", "prefect")},
        "objects": objects,
        "files": {
            path.relative_to(unfinished).as_posix(): sha256(path) for path in sorted(unfinished.rglob("*")) if path.is_file()
        },
    }
    write_private(unfinished / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    unfinished.rename(to)
    size = sum(path.stat().st_size for path in to.rglob("*") if path.is_file())
    return f"backup {to}: {len(DATABASES)} databases, {sum(objects.values())} objects, {size / 2**20:.0f} MiB"


def _save_bucket(team: Team, bucket: str, file: Path) -> int:
    """Write all objects of a bucket to a tar file; return their number."""
    client, count = s3.client(team), 0
    with tarfile.open(file, "w") as archive:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
            for entry in page.get("Contents", []):
                try:
                    answer = client.get_object(Bucket=bucket, Key=entry["Key"])
                except client.exceptions.NoSuchKey:  # deleted meanwhile
                    continue
                member = tarfile.TarInfo(entry["Key"])
                member.size = answer["ContentLength"]
                archive.addfile(member, answer["Body"])
                count += 1
    return count


def restore(team: Team, backup: Path) -> str:
    """Make the state of the servers from a backup; there must be none yet. Returns one line. Raises TeamError."""
    manifest = read_manifest(backup)
    with team.lock():
        for part in ("postgres", "s3", "secrets"):
            if (team.folder / part).exists():
                raise TeamError(f"{team.folder / part}: exists, and a restore would replace it; move {team.folder} away first")
        (team.folder / "secrets").mkdir(mode=0o700)
        for name in SECRETS:
            write_private(team.folder / "secrets" / name, (backup / "secrets" / name).read_text(encoding="utf-8"))
        make_secrets(team)
        with storage_running(team):
            for database, role in DATABASES.items():
                options = ["--no-owner", f"--role={role}", "--exit-on-error", "--single-transaction"]
                postgres.client(team, "pg_restore", *options, str(backup / f"{database}.dump"), database=database)
            objects = sum(_restore_bucket(team, bucket, backup / f"{bucket}.tar") for bucket in BUCKETS.values())
    made_at = manifest["made_at"]
    return f"restored {len(DATABASES)} databases and {objects} objects of {made_at} to {team.folder}; `make team` starts them"


def _restore_bucket(team: Team, bucket: str, file: Path) -> int:
    client, count = s3.client(team), 0
    with tarfile.open(file) as archive:
        for member in archive:
            body = archive.extractfile(member)
            assert body is not None
            client.upload_fileobj(body, bucket, member.name)
            count += 1
    return count


def read_manifest(backup: Path) -> dict[str, Any]:
    """Return the manifest of a backup after checking all its files. Raises TeamError if one is missing or damaged."""
    try:
        manifest: dict[str, Any] = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TeamError(f"{backup / MANIFEST}: cannot be read ({error}); this is not a complete backup") from None
    if manifest.get("format") != FORMAT:
        raise TeamError(f"{backup}: has format {manifest.get('format')}, this version reads {FORMAT}")
    damaged = [name for name, digest in manifest["files"].items() if not _has_digest(backup / name, digest)]
    if damaged:
        raise TeamError(f"{backup / damaged[0]}: is missing or damaged (its checksum differs); use another backup")
    return manifest


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest
