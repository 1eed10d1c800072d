"""An image that is built here: no secret and no setting of the machine in a layer, no build tools, and it serves a model.

Slow, and skipped without an engine and its base image. As for `make image`, IMAGE_OPTIONS has what this machine needs.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tarfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import image
import pytest

from alpro.tracking import store
from tests.evaluation.conftest import write_video
from tests.served.conftest import register
from tests.serving.conftest import TEXTS, checkpoints

pytestmark = pytest.mark.slow  # a build
ROOT = Path(__file__).parents[2]
BASE = "debian:12-slim"
SECRET = secrets.token_hex(16)  # made here, because this file is in the image too
PATIENCE_S = 300
MODEL = "alpro-msvd_qa"
TOOLS = ("gcc", "g++", "cc", "c++", "ld", "cmake", "pip", "uv")

__all__ = ["checkpoints"]


@dataclass
class Layers:
    """The content of an image: settings and history, and the files of all layers, also those that a later layer removes."""

    settings: dict[str, Any] = field(default_factory=dict)
    files: dict[str, set[int]] = field(default_factory=dict)  # the sizes of a path in all layers
    with_secret: list[str] = field(default_factory=list)


@dataclass
class Built:
    """An image and the engine that built it."""

    engine: str
    target: str
    layers: Layers

    @property
    def name(self) -> str:
        return image.tag(self.target, "cpu")


def unpacked(archive: Path) -> Layers:
    """Read an archive of `docker save`: JSON files and one archive for each layer."""
    layers = Layers()
    with tarfile.open(archive) as outer:
        for member in (member for member in outer if member.isfile()):
            content = outer.extractfile(member)
            assert content is not None
            if member.name.endswith(".json") or not _read_layer(member.name, content, layers):
                content.seek(0)
                text = content.read()
                _look(member.name, text, layers)
                if b'"rootfs"' in text:
                    layers.settings = json.loads(text)
    assert layers.settings and layers.files
    return layers


def _read_layer(name: str, content: Any, layers: Layers) -> bool:
    try:
        with tarfile.open(fileobj=content, mode="r:*") as layer:
            for member in layer:
                path = f"/{member.name.removeprefix('./').strip('/')}"
                layers.files.setdefault(path, set()).add(member.size)
                _look(path, member.linkname.encode(), layers)
                if member.isfile():
                    file = layer.extractfile(member)
                    assert file is not None
                    _look(path, file.read(), layers)
    except tarfile.ReadError:
        return False
    return True


def _look(path: str, content: bytes, layers: Layers) -> None:
    if SECRET.encode() in content:
        layers.with_secret.append(path)


def engine() -> str:
    """Return the engine, or skip the tests."""
    try:
        name = image.engine()
    except image.ImageError as error:
        pytest.skip(str(error))
    inspect = ["inspect", "--type", "image"] if name == "buildah" else ["image", "inspect"]
    if subprocess.run([name, *inspect, BASE], capture_output=True).returncode:
        pytest.skip(f"{name} has no image {BASE}; pull it first")
    return name


@pytest.fixture(scope="module", params=["serve", "run"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """An image that `make image` built with secrets in its environment."""
    name, folder = engine(), tmp_path_factory.mktemp("image")
    planted = {
        "PIP_INDEX_URL": f"https://user:{SECRET}@127.0.0.1:9/simple",
        "ALPRO_API_TOKEN": SECRET,
        "AWS_SECRET_ACCESS_KEY": SECRET,
    }
    made = subprocess.run(["make", "image", f"TARGET={request.param}"], cwd=ROOT, env={**os.environ, **planted})
    assert made.returncode == 0
    archive, tag = folder / "image.tar", image.tag(request.param, "cpu")
    save = ["push", tag, f"docker-archive:{archive}"] if name == "buildah" else ["save", "--output", str(archive), tag]
    subprocess.run([name, *save], check=True, capture_output=True)
    layers = unpacked(archive)
    archive.unlink()
    yield Built(name, request.param, layers)


def test_no_secret_is_in_a_layer_or_the_history(built: Built) -> None:
    assert built.layers.with_secret == []


def test_no_setting_of_this_machine_is_in_a_layer(built: Built) -> None:
    """Mounts of the build leave at most an empty file or folder."""
    mounts = [word for word in os.environ.get("IMAGE_OPTIONS", "").split() if word.startswith("--volume=")]
    places = ["/etc/pip.conf", *(word.removeprefix("--volume=").split(":")[1] for word in mounts)]
    left = {path: sizes for path, sizes in built.layers.files.items() if path.startswith(tuple(places)) and sizes != {0}}
    assert left == {}
    variables = {variable.split("=")[0] for variable in built.layers.settings["config"]["Env"]}
    assert variables == {"PATH", "LANG", "PYTHONUNBUFFERED"}


def test_image_has_no_build_tools(built: Built) -> None:
    programs = [path for path in built.layers.files if "/bin/" in path and path.rsplit("/", 1)[-1] in TOOLS]
    assert [path for path in programs if not path.endswith((".venv/bin/uv", ".venv/bin/pip"))] == []


def test_image_is_labelled_and_does_not_run_as_root(built: Built) -> None:
    config = built.layers.settings["config"]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert config["User"] == "10001"
    assert config["Labels"]["org.opencontainers.image.revision"] == commit
    assert config["Labels"]["org.opencontainers.image.licenses"] == "BSD-3-Clause"
    with image.container(built.engine, built.name) as words:
        script = "id -u; stat -c %u /home/alpro/work LICENSE; touch mine && rm mine"
        done = subprocess.run([*words, "sh", "-c", script], env=image.environment(built.engine), capture_output=True, text=True)
    assert done.stdout.split() == ["10001"] * 3 and done.returncode == 0, done.stderr


def test_image_serves_a_registered_model(built: Built, checkpoints: Path, tmp_path: Path) -> None:
    """The project with the registry is mounted, as a folder of a user would be."""
    project = tmp_path / "project"
    (project / "videos").mkdir(parents=True)
    write_video(project / "videos/one.mp4", 1)
    shutil.copy(ROOT / "params.yaml", project)
    register(project, MODEL, checkpoints / "qa")
    with store.opened(project) as opened:
        opened.client.set_registered_model_alias(MODEL, "champion", "1")
    for path in (project, *project.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    alpro = "alpro" if built.target == "serve" else "/home/alpro/work/.venv/bin/python -m alpro"
    port = free_port()
    script = f"cd {project} && exec {alpro} serve --videos videos --port {port}"
    with image.container(built.engine, built.name, "cpu", "--network=host", f"--volume={project}:{project}") as words:
        server = subprocess.Popen([*words, "sh", "-c", script], env=image.environment(built.engine), start_new_session=True)
        try:
            health = wait_for_answer(server, f"http://127.0.0.1:{port}/health")
            assert health["status"] == "ok", health
            answer = asked(f"http://127.0.0.1:{port}/ask", {"video": "one.mp4", "question": TEXTS[1]})
            assert answer["model"] == {"name": f"{MODEL}/1", "origin": "champion"}
            assert len(answer["answers"]) == 3
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(PATIENCE_S)
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def asked(url: str, body: dict[str, str] | None = None) -> dict[str, Any]:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE_S) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def wait_for_answer(server: subprocess.Popen[bytes], url: str) -> dict[str, Any]:
    end = time.monotonic() + PATIENCE_S
    while True:
        assert server.poll() is None and time.monotonic() < end, "the server does not answer"
        try:
            return asked(url)
        except urllib.error.HTTPError:
            raise
        except OSError:
            time.sleep(0.5)
