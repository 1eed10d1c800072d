"""`make repro` after the setup: checks, `dvc repro`, MLflow and the results, with one line per stage on the screen.

All that DVC, the stages and MLflow print goes to `.make/repro.log`. If a stage fails, its last lines are shown.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any, TextIO, cast

from alpro.config import load
from alpro.errors import AlproError
from alpro.files.atomic import atomic_write
from alpro.files.json_files import write_json
from alpro.terminal.console import SafeStream
from flows.commands import TOOLS, environment
from flows.stage_lines import StageLines
from flows.stages import EVERYTHING
from flows.stray_files import UNFINISHED, prepare_repro, select_stray_files

LOG = Path(".make/repro.log")
DURATIONS = Path(".make/durations.json")  # seconds of each stage in this checkout, by recipe
SYNCED = Path(".make/synced")  # _mlflow_state after the last update of MLflow, which takes seconds even if nothing is new
INTERRUPTED = 130
PATIENCE_S = 20.0  # after Ctrl-C a training saves its state
LAST_LINES = 15  # shown of a stage that fails
TICK_S = 1.0
SESSION = Path(__file__).with_name("dvc_session.py")


class ReproError(Exception):
    """The run ends with this message and exit code."""

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


class Session:
    """A running dvc_session.py; its output goes to the log and comes as lines."""

    def __init__(self, root: Path, log: IO[str]) -> None:
        self._log = log
        self._child = subprocess.Popen(
            [sys.executable, "-u", "-P", str(SESSION), *EVERYTHING],
            cwd=root,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def next_line(self, timeout_s: float | None = None) -> str | None:
        """Return the next line, or None at the end. Raises queue.Empty if there is none in time."""
        line = self._lines.get(timeout=timeout_s)
        if line is not None:
            print(line, file=self._log, flush=True)
        return line

    def description(self) -> dict[str, Any]:
        """Return what the session found out before `dvc repro`. Raises ReproError if DVC refuses the project."""
        lines: deque[str] = deque(maxlen=LAST_LINES)
        while (line := self.next_line()) is not None:
            if line.startswith("{"):
                found: dict[str, Any] = json.loads(line)
                if "error" in found:
                    raise ReproError(str(found["error"]))
                return found
            lines.append(line)
        raise ReproError("\n".join(["DVC failed:", *lines]))

    def reproduce(self) -> None:
        """Let the session run `dvc repro`."""
        assert self._child.stdin is not None
        try:
            self._child.stdin.write("go\n")
            self._child.stdin.close()
        except BrokenPipeError:
            code = self.wait()
            raise ReproError(f"DVC was ended from outside (exit code {code}); run `make repro` again to continue") from None

    def wait(self, timeout_s: float | None = None) -> int:
        """Return the exit code."""
        return self._child.wait(timeout_s)

    def end(self) -> None:
        """End the session; the processes of a stage end with the lock of `make repro`."""
        if self._child.poll() is None:
            self._child.terminate()
            self._child.wait()


def run(root: Path, screen: TextIO, edited: str) -> None:
    """Run the pipeline in `root`. Raises ReproError, AlproError, or KeyboardInterrupt before the first stage."""
    start = time.monotonic()
    (root / LOG).parent.mkdir(exist_ok=True)
    for line in _output_of([sys.executable, "-E", "-S", str(TOOLS / "clear_dvc_lock.py")], root):
        print(line, file=screen)
    print(f"checking the inputs; all output of the stages goes to {LOG}", file=screen, flush=True)
    with (root / LOG).open("w", encoding="utf-8") as log:
        session = Session(root, log)
        try:
            recipe = _preflight(root)
            found = session.description()
            if code := prepare_repro(root, edited, lambda: select_stray_files(root, found["changed"])):
                raise ReproError("", code)
            durations = _read_durations(root)
            expected = durations.get(recipe, {})
            cost = "" if expected else _stated_cost(root / "params.yaml")
            print(f"recipe {recipe}: {len(found['stages'])} stages{cost}", file=screen, flush=True)
            lines = StageLines(screen, found["stages"], expected)
            session.reproduce()
            try:
                _follow(session, lines)
            finally:
                expected |= {entry.stage: round(entry.seconds, 1) for entry in lines.done if entry.outcome == "ran"}
                write_json(root / DURATIONS, {**durations, recipe: expected})
        finally:
            session.end()
        (root / UNFINISHED).unlink(missing_ok=True)
        if (state := _mlflow_state(root)) is None or state != _read_text(root / SYNCED):
            _sync(root, log)
            atomic_write(root / SYNCED, _mlflow_state(root) or "")
    lines.table(time.monotonic() - start)
    _show_results(root)


def _preflight(root: Path) -> str:
    """Check git, params.yaml and the inputs; return the name of the recipe."""
    from alpro.checks.preflight import check, check_git

    if warning := check_git(root):
        print(f"repro: warning: {warning}", file=sys.stderr, flush=True)
    params = load(root / "params.yaml")
    check(params)
    return params.recipe


def _follow(session: Session, lines: StageLines) -> None:
    """Show the stages until `dvc repro` has ended. Raises ReproError if it failed or was interrupted."""
    interrupted_s = 0.0
    while True:
        try:
            line = session.next_line(TICK_S)
            if line is None:
                break
            if interrupted_s and line.startswith("Running stage "):
                raise _interrupted(lines)
            lines.line(line)
        except queue.Empty:
            lines.tick()
        except KeyboardInterrupt:
            if interrupted_s:  # the second Ctrl-C does not wait
                raise _interrupted(lines) from None
            interrupted_s = time.monotonic()
        if interrupted_s and time.monotonic() - interrupted_s > PATIENCE_S:
            raise _interrupted(lines)
    code = session.wait()
    if interrupted_s:
        raise _interrupted(lines)
    if code:
        raise _failure(lines, code)
    lines.finish()


def _interrupted(lines: StageLines) -> ReproError:
    where = f" in stage {lines.current}" if lines.current else ""
    lines.finish("interrupted")
    return ReproError(f"interrupted{where}; run `make repro` again to continue", INTERRUPTED)


def _failure(lines: StageLines, code: int) -> ReproError:
    """Return the error with the failed stage's own last lines, without those of DVC around them."""
    name = lines.current
    own = [line for line in lines.output if line.strip() and not line.startswith(("> ", "ERROR: failed to reproduce"))]
    last = own or [line for line in lines.output if line.strip()]
    if name:
        lines.finish("failed")
    what = f"stage {name} failed" if name else f"`dvc repro` failed (exit code {code})"
    shown = "".join(f"\n  {line}" for line in last[-LAST_LINES:])
    return ReproError(f"{what}:{shown}\nall output is in {LOG}; run `make repro` again to continue")


def _sync(root: Path, log: IO[str]) -> None:
    """Add the runs to MLflow."""
    command = [sys.executable, "-m", "alpro", "track", "sync"]
    done = subprocess.run(command, cwd=root, env=environment(), capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(done.stdout + done.stderr, file=log, flush=True)
    if done.returncode:
        last = "\n  ".join(done.stderr.strip().splitlines()[-LAST_LINES:])
        raise ReproError(f"the results are complete, but MLflow was not updated:\n  {last}\nrun `alpro track sync` again")


def _mlflow_state(root: Path) -> str | None:
    """Return a text that changes with the results, the parameters, the commit and the project's MLflow store.

    None if the store is on a server, where changes cannot be seen.
    """
    from alpro.lineage import LOCKS
    from alpro.tracking.store import sqlite_path, store_uri

    uri = store_uri(root)
    store = sqlite_path(uri)
    if store is None:
        return None
    digest = hashlib.sha256(uri.encode())
    for name in ("params.yaml", *LOCKS):
        digest.update((root / name).read_bytes() if (root / name).exists() else b"")
    digest.update("".join(_output_of(["git", "rev-parse", "HEAD"], root)).encode())
    if store.exists():
        status = store.stat()
        digest.update(f"{status.st_ino} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _show_results(root: Path) -> None:
    from alpro.report import show_report

    show_report(load(root / "params.yaml"), root / "reports")


def _output_of(command: Sequence[str], root: Path) -> Iterable[str]:
    """Return the lines that a short command prints. Raises ReproError if it fails."""
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if done.returncode:
        name = next((Path(word).name for word in command if word.endswith(".py")), " ".join(command))
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ReproError(f"`{name}` failed: {last}")
    return done.stdout.splitlines()


def _read_durations(root: Path) -> dict[str, dict[str, float]]:
    """Return the seconds of the stages that ran in this checkout; empty if the file is missing or damaged."""
    try:
        read = json.loads((root / DURATIONS).read_text(encoding="utf-8"))
        return {str(recipe): {str(name): float(s) for name, s in stages.items()} for recipe, stages in read.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _stated_cost(params: Path) -> str:
    """Return the cost in the comment at the top of the recipe, as the rest of a line; empty if it states none."""
    for line in params.read_text(encoding="utf-8").splitlines():
        if line.startswith("# Cost: "):
            return f"\ncost of the recipe: {line.removeprefix('# Cost: ')}"
    return ""


def main() -> int:
    """Run the pipeline in the working directory."""
    screen = cast(TextIO, SafeStream(sys.stdout))
    try:
        run(Path.cwd(), screen, os.environ.get("EDITED", ""))
    except ReproError as error:
        if str(error):
            print(f"repro: {error}", file=sys.stderr)
        return error.code
    except AlproError as error:
        print(f"repro: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"repro: {error}; once this is repaired, run `make repro` again to continue", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("repro: interrupted; run `make repro` again to continue", file=sys.stderr)
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main())
