"""A small DVC repository with cheap stages."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).parents[2]
PATIENCE_S = 600
DVC = str(Path(sys.executable).with_name("dvc"))

PARAMS = """\
recipe: tiny
lr: 0.1
finetune:
  a: {lr: 0.5}
  b: {lr: 0.25}
"""
PIPELINE = """\
stages:
  unneeded:
    cmd: echo > unneeded.txt
    outs: [unneeded.txt]
  pretrain:
    cmd: echo "the loss is ${lr}"; mkdir -p models; echo ${lr} > models/pretrain; echo x >> pretrained
    params: [lr]
    outs: [models/pretrain]
  finetune:
    foreach: ${finetune}
    do:
      cmd: >-
        mkdir -p models/ft; echo '{"r1": ${item.lr}}' > models/ft/${key}
      deps: [models/pretrain]
      params: ["finetune.${key}"]
      outs: ["models/ft/${key}"]
  evaluate:
    foreach: ${finetune}
    do:
      cmd: >-
        echo evaluating ${key}; mkdir -p reports/evaluate/${key};
        cp models/ft/${key} reports/evaluate/${key}/metrics.json
      deps: ["models/ft/${key}"]
      metrics: ["reports/evaluate/${key}/metrics.json"]
  report:
    cmd: cat reports/evaluate/*/metrics.json > summary.txt
    deps: [reports/evaluate]
    outs: [summary.txt]
"""
# output of `alpro register --json` without new runs or versions
NOTHING_NEW = """{
  "store": "x", "experiment": "1", "parent": "", "created": [], "completed": [], "unchanged": [], "registered": [], "runs": {},
  "versions": {}
}"""
# replaces `python -m alpro`: appends its arguments to .make/verbs
COMMAND_LINE = f"""\
import sys
open('.make/verbs', 'a').write(' '.join(sys.argv[1:]) + chr(10))
if '--json' in sys.argv:
    print({NOTHING_NEW!r})
"""


def run(*words: str, cwd: Path) -> str:
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def commit(root: Path, message: str = "state") -> None:
    run("git", "add", "-A", cwd=root)
    run("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", message, cwd=root)


def apply_experiment(name: str, cwd: Path) -> None:
    """Apply an experiment. DVC applies it, and then fails for the outputs of stages that nobody has run."""
    done = subprocess.run([DVC, "exp", "apply", name], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0 or "Checkout failed for following targets:" in done.stderr, done.stderr


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "project"
    files = {
        "params.yaml": PARAMS,
        "dvc.yaml": PIPELINE,
        "alpro/__init__.py": "",
        "alpro/__main__.py": COMMAND_LINE,
        ".gitignore": "/.prefect/\n/.make/\n/.state/\n/pretrained\n__pycache__/\n",
        ".make/verbs": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    run("git", "init", "-q", "-b", "main", cwd=root)
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):  # `dvc exp save` makes a commit
        monkeypatch.setenv(f"{name}_NAME", "t")
        monkeypatch.setenv(f"{name}_EMAIL", "t@t")
    run(DVC, "init", "-q", cwd=root)
    commit(root)
    return root


@pytest.fixture(scope="session")
def server_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's home folder for the whole session, because creating its database takes long."""
    return tmp_path_factory.mktemp("prefect")


def flow_command(*words: str) -> list[str]:
    """Return `python -m flows.pipeline` with this repository's code; -P hides the scratch project's package `alpro`."""
    return [sys.executable, "-P", "-m", "flows.pipeline", *words]


def flow_environment(server_home: Path) -> dict[str, str]:
    own = {"PYTHONPATH": str(REPOSITORY), "PREFECT_HOME": str(server_home), "PREFECT_LOGGING_LEVEL": "INFO"}
    return {**{k: v for k, v in os.environ.items() if not k.startswith("PREFECT_API")}, **own}


def living_in(root: Path) -> list[int]:
    """Return the processes whose working directory is below root."""
    numbers = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cwd").resolve().is_relative_to(root) and int(entry.name) != os.getpid():
                numbers.append(int(entry.name))
        except OSError:
            continue
    return numbers


@dataclass(frozen=True)
class Pages:
    """A running `make ui` of a project."""

    root: Path
    process: subprocess.Popen[bytes]
    log: Path
    prefect: str
    mlflow: str

    def end(self, number: signal.Signals) -> None:
        """Send a signal and check that it ends with exit code 0, leaving no process."""
        self.process.send_signal(number)
        assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()
        wait_for(lambda: not living_in(self.root), "end of its processes")


@contextmanager
def pages(root: Path, **variables: str) -> Iterator[Pages]:
    """Run `flows/ui.py` in a clone of this repository, with these environment variables, until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        ports = one.getsockname()[1], other.getsockname()[1]
    own = {"PREFECT_PORT": str(ports[0]), "MLFLOW_PORT": str(ports[1]), "PYTHONPATH": str(root)}
    own |= {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))} | own | variables
    log = root.parent / "ui.log"
    with log.open("w") as file:
        process = subprocess.Popen([sys.executable, "-m", "flows.ui"], cwd=root, env=environment, stdout=file, stderr=file)
    try:
        wait_for(lambda: process.poll() is not None or "Ctrl-C" in log.read_text(), "servers")
        assert process.poll() is None, log.read_text()
        yield Pages(root, process, log, *(f"http://127.0.0.1:{port}" for port in ports))
    finally:
        process.terminate()
        process.wait()


def tiny_project(root: Path) -> None:
    """Clone this repository with recipe tiny, fine-tuning from scratch and thus without pre-training."""
    run("git", "clone", "-q", str(REPOSITORY), str(root), cwd=root.parent)
    run(sys.executable, "-m", "alpro", "recipe", "use", "tiny", cwd=root)
    parameters = root / "params.yaml"
    params = yaml.safe_load(parameters.read_text())
    params["init"]["finetune"] = "recipes/init/scratch.yaml"
    parameters.write_text(yaml.safe_dump(params))
    commit(root, "Recipe tiny, from scratch")


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {PATIENCE_S} s"
        time.sleep(0.1)
