"""No value of params.yaml and no field of a flow's form starts a command of its own: attacks with real DVC and Prefect."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.experiment import apply, override
from flows.form import Start, to_changes

from .conftest import DVC, REPOSITORY, commit, flow_environment, run

MARKER = "started"  # a file that appears if a payload runs
PAYLOADS = {
    "semicolon": f"tiny; touch {MARKER}; echo ",
    "single quote": f"a'; touch {MARKER}; '",
    "double quote": f'a"; touch {MARKER}; "',
    "dollar": f"$(touch {MARKER})",
    "backticks": f"`touch {MARKER}`",
    "newline": f"a\ntouch {MARKER}\n",
    "pipe": f"a | touch {MARKER} & touch {MARKER}",
    "dash": "-x",
    "up": "../up",
    "space": "my set",
}
ATTACK = """\
import json, sys
from pathlib import Path
from flows.pipeline import finetune, pipeline
from flows.server import embedded_server
ran = []
with embedded_server(Path.cwd()):
    for payload in json.load(open("../payloads.json")):
        for flow, fields in ((pipeline, {"overrides": ["recipe=" + json.dumps(payload)]}),
                             (pipeline, {"tasks": [payload]}),
                             (pipeline, {"from_stage": payload}),
                             (finetune, {"task": payload})):
            try:
                flow(**fields)
                ran.append([payload, list(fields)])
            except (Exception, SystemExit):
                pass
print(json.dumps(ran))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a clone of this repository with recipe tiny, and the inputs of the stages `text` and `finetune`."""
    root = tmp_path / "project"
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    for variable in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{variable}_NAME", "t")
        monkeypatch.setenv(f"{variable}_EMAIL", "t@t")
    run("git", "clone", "-q", "--no-hardlinks", str(REPOSITORY), str(root), cwd=tmp_path)
    shutil.copy(REPOSITORY / "dvc.yaml", root / "dvc.yaml")  # also uncommitted work
    shutil.copy(root / "recipes/tiny.yaml", root / "params.yaml")
    for folder in ("data/sample/msvd_qa/txt", "data/sample/msvd_qa/videos", "models/tiny/text", "models/tiny/validated"):
        (root / folder).mkdir(parents=True)
        (root / folder / "file").write_text("x")
    (root / "models/tiny/validated/msvd_qa.json").write_text("{}")
    commit(root, "Recipe tiny")
    return root


def change(root: Path, **sections: Any) -> None:
    """Change params.yaml; a section that is a dictionary is merged."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    for name, value in sections.items():
        params[name] = {**params[name], **value} if isinstance(value, dict) else value
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def dvc(root: Path, *words: str) -> str:
    """Run DVC, which may fail; return its output."""
    done = subprocess.run([DVC, *words], cwd=root, capture_output=True, text=True, timeout=600)
    return done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=list(PAYLOADS))
def test_dvc_starts_no_command_of_an_edited_params_yaml(project: Path, payload: str) -> None:
    single = ("repro", "--single-item", "--force")
    before = (project / "params.yaml").read_text()
    change(project, recipe=payload)
    output = dvc(project, *single, "text")
    assert 'python -m alpro stage "$DVC_STAGE"' in output or payload in PAYLOADS["newline"], output
    (project / "params.yaml").write_text(before)
    if not payload.startswith(("/", "..")):
        (project / payload).mkdir(parents=True)
        (project / payload / "weights").write_text("x")
    change(project, init={"finetune": payload})
    dvc(project, *single, "finetune@msvd_qa")
    (project / "params.yaml").write_text(before)
    params = yaml.safe_load(before)
    change(project, **{section: {payload: params[section]["msvd_qa"]} for section in ("datasets", "finetune", "evaluate")})
    dvc(project, *single, "finetune@" + payload, "validate@" + payload)
    assert not (project / MARKER).exists()


@pytest.mark.slow
def test_bad_names_are_refused_before_dvc_deletes_anything(project: Path) -> None:
    params = yaml.safe_load((project / "params.yaml").read_text())
    before = {path: path.read_bytes() for path in (project / "models").rglob("*") if path.is_file()}
    for name in ("my set", "msvd.qa", "-x", "../up", "a;touch x"):
        sections = {section: {name: params[section]["msvd_qa"]} for section in ("datasets", "finetune", "evaluate")}
        change(project, **sections)
        done = subprocess.run([sys.executable, "-m", "flows.repro"], cwd=project, capture_output=True, text=True, timeout=300)
        assert done.returncode == 2 and "is not a valid name: use letters, digits" in done.stderr, done.stderr
        (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert {path: path.read_bytes() for path in (project / "models").rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_checkpoint_in_a_folder_with_spaces_and_quotes_reaches_its_stage(project: Path) -> None:
    path = "my models/it's $mine"
    (project / path).mkdir(parents=True)
    (project / path / "weights").write_text("x")
    change(project, init={"finetune": path}, launch={"processes": 1})
    output = dvc(project, "repro", "--single-item", "--force", "finetune@msvd_qa")
    assert f"> alpro launch -- train finetune --task=msvd_qa {shlex.quote(f'--init={path}')} --output=models/tiny" in output
    assert "Got unexpected extra argument" not in output


@pytest.mark.slow
@pytest.mark.parametrize("name", ["semicolon", "single quote", "dollar", "backticks", "dash", "up"])
def test_dvc_exp_run_starts_no_command_of_an_override(project: Path, name: str) -> None:
    words = ["exp", "run", "--single-item", "--force", "-S", f"recipe={json.dumps(PAYLOADS[name])}", "text"]
    output = dvc(project, *words)
    assert "is not a valid name" in output or "Error" in output or "ERROR" in output, output
    assert not (project / MARKER).exists()


@pytest.mark.slow
def test_no_field_of_a_flow_starts_a_command(project: Path, server_home: Path) -> None:
    chosen = [PAYLOADS[name] for name in ("semicolon", "single quote", "dollar", "newline", "dash", "up")]
    (project.parent / "payloads.json").write_text(json.dumps(chosen))
    done = subprocess.run(
        [sys.executable, "-c", ATTACK],
        cwd=project,
        env=flow_environment(server_home),
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [], "each run was refused"
    assert not list(project.rglob(MARKER)) and not list(project.parent.glob(MARKER))


@pytest.mark.parametrize("payload", [*PAYLOADS.values(), r"a\', recipe='b", r"a\\'b\\", "a,b", "a=b", "{a: 1}"])
def test_a_start_checkpoint_of_the_form_stays_one_value(payload: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipe: tiny\ninit: {finetune: x}\n")
    override(tmp_path, to_changes(None, [], Start(finetune=payload)).overrides)
    assert yaml.safe_load((tmp_path / "params.yaml").read_text()) == {"recipe": "tiny", "init": {"finetune": payload}}


def test_overrides_cannot_read_the_environment(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("recipe: tiny\n")
    with pytest.raises(ValueError, match=r"`\$\{` is not allowed"):
        override(tmp_path, ["recipe=${oc.env:PREFECT_API_AUTH_STRING}"])
    assert (tmp_path / "params.yaml").read_text() == "recipe: tiny\n"


COMMITTED = """\
launch: {discovery: null, hosts: "one:1,two:1", sample_log: null, remote_shell: ssh, scheduler: null, slurm: {account: null}}
loader: {cache: .state/frames}
entities: {tagger: null}
convert: {fast: {source: a, output: b}}
"""


@pytest.mark.parametrize(
    ("override", "name"),
    [
        ("launch.discovery=/bin/ls", "launch.discovery"),
        ("launch.hosts='other.example:4'", "launch.hosts"),
        ("launch={hosts: 'other.example:4'}", "launch.hosts"),
        ("launch=x", "launch.discovery"),
        ("launch.remote_shell=srun", "launch.remote_shell"),
        ("launch.scheduler=slurm", "launch.scheduler"),
        ("launch.slurm.account=other", "launch.slurm"),
        ("entities.tagger=/tmp/pipeline", "entities.tagger"),
        ("launch.sample_log=/home/me/.bashrc", "launch.sample_log"),
        ("loader.cache=/home/me", "loader.cache"),
        ("convert.fast.output=/home/me", "convert.fast.output"),
        ("+convert.other={source: a, output: /home/me}", "convert.other.output"),
    ],
)
def test_a_run_cannot_name_programs_hosts_or_places_to_write(tmp_path: Path, override: str, name: str) -> None:
    (tmp_path / "params.yaml").write_text(COMMITTED)
    with pytest.raises(ValueError, match=f"a run cannot change `{name}`"):
        apply(tmp_path, to_changes(None, [override]))


def test_a_run_may_repeat_or_clear_a_protected_value(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(COMMITTED)
    apply(tmp_path, to_changes(None, ["launch.hosts='one:1,two:1'", "loader.cache=null", "~convert.fast"]))
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert (params["launch"]["hosts"], params["loader"]["cache"], params["convert"]) == ("one:1,two:1", None, {})


def test_a_recipe_keeps_the_scheduler_of_the_checkout(tmp_path: Path) -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    shutil.copytree(recipes, tmp_path / "recipes")
    params = yaml.safe_load((recipes / "tiny.yaml").read_text())
    params["launch"] |= {"scheduler": "slurm", "slurm": {**params["launch"]["slurm"], "partition": "gpu"}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    apply(tmp_path, to_changes("paper", []))
    launch = yaml.safe_load((tmp_path / "params.yaml").read_text())["launch"]
    assert (launch["scheduler"], launch["slurm"]["partition"], launch["processes"]) == ("slurm", "gpu", 8)
