"""No value of params.yaml may begin a shell command of its own, and no key may be given twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from alpro.config import load
from alpro.errors import ConfigError

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "recipes/sample.yaml"
NAMES = ["my set", "a;touch x", "msvd.qa"]
PATHS = ["init.prompter", "init.teacher", "init.pretrain", "init.finetune", "evaluate.msvd_qa.checkpoint"]


@pytest.mark.parametrize(
    "name", ["sample; touch x", "my set", "a;touch x", "msvd.qa", "-x", "../up", "$(id)", "`id`", "a\nb", ""]
)
def test_names_that_a_shell_or_dvc_would_interpret_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a valid name: use letters, digits, `_` and `-`"):
        load(SAMPLE, [f"recipe={name!r}"])


@pytest.mark.parametrize("section", ["corpora", "datasets", "finetune", "evaluate", "zeroshot", "convert"])
@pytest.mark.parametrize("name", NAMES)
def test_names_of_sets_are_restricted_too(section: str, name: str, tmp_path: Path) -> None:
    raw = yaml.safe_load(SAMPLE.read_text())
    entry = next(iter(raw[section].values())) if raw.get(section) else {"source": "a", "output": "b"}
    raw[section] = {**(raw.get(section) or {}), name: entry}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match="is not a valid name"):
        load(tmp_path / "params.yaml")


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("path", ["-x", "", "a\nb", "a\tb", "${init.teacher}"])
def test_paths_that_dvc_or_a_command_would_misread_are_refused(key: str, path: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a valid path: .*; rename the folder, or link to it"):
        load(sample_with(key, path, tmp_path))


@pytest.mark.parametrize(
    "path", ["models/x", "/data/Größe/x.pt", "../up/x-1.2_3", "/data/my models/x", "a'b;$(id)", "a|b&c>d", 'a"`b`']
)
def test_other_paths_are_accepted(path: str, tmp_path: Path) -> None:
    assert load(sample_with("init.finetune", path, tmp_path)).init.finetune == path


def sample_with(key: str, value: str, folder: Path) -> Path:
    """Write the sample's parameters with another value of a key."""
    raw = yaml.safe_load(SAMPLE.read_text())
    section = raw
    *parents, last = key.split(".")
    for parent in parents:
        section = section[parent]
    section[last] = value
    (folder / "params.yaml").write_text(yaml.safe_dump(raw, allow_unicode=True), encoding="utf-8")
    return folder / "params.yaml"


@pytest.mark.parametrize("hosts", ["-oProxyCommand=x:1", "a b:1", "a;touch x:1", "$(id):1", "a:1,-x:2", "a", "a:x", "a:1\nb:1"])
def test_hosts_that_ssh_or_a_shell_would_interpret_are_refused(hosts: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a list of hosts: write `name:slots,name:slots`"):
        load(SAMPLE, ["launch.processes=2", f"launch.hosts={json.dumps(hosts)}"])


def test_hosts_by_name_and_address_are_accepted() -> None:
    for hosts in ("localhost:1", "node-1.example.org:4,10.0.0.2:4", "gpu_1:8"):
        assert load(SAMPLE, ["launch.processes=1", f"launch.hosts={json.dumps(hosts)}"]).launch.hosts == hosts


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("network_interfaces=['eth0;id']", "is not a network interface .*write a name, `eth1`, or an IPv4 network"),
        ("network_interfaces=['-x']", "is not a network interface"),
        ("network_interfaces=['10.1.0.0/99']", "is not a network interface"),
        ("network_interfaces=['fe80::1/64']", "is not a network interface"),
        ("network_interfaces=[]", "at least 1 item"),
        ("ssh_port=0", "greater than or equal to 1"),
        ("ssh_port=65536", "less than or equal to 65535"),
        ("ssh_identity='-oProxyCommand=x'", "is not a valid path"),
        ("ssh_identity='keys/%h'", "ssh replaces `%` in it"),
        ("ssh_identity='~/.ssh/id'", "does not expand `~`"),
        ("hosts='a:1,b:1'", "launch.hosts has 2 slots, but launch.processes is 3"),
        ("hosts='a:2,a:1'", "launch.hosts names a twice"),
    ],
)
def test_what_ssh_and_horovod_would_misread_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(SAMPLE, ["launch.processes=3", f"launch.{setting}"])


def test_interfaces_port_and_key_are_accepted() -> None:
    settings = ["network_interfaces=[ib0, 'bond0.7', '10.1.2.3/16']", "ssh_port=2222", "ssh_identity='/keys/my id'"]
    launch = load(SAMPLE, [f"launch.{setting}" for setting in settings]).launch
    assert launch.network_interfaces == ["ib0", "bond0.7", "10.1.0.0/16"]
    assert (launch.ssh_port, launch.ssh_identity) == (2222, "/keys/my id")


def test_a_key_given_twice_is_refused_by_name_and_line(tmp_path: Path) -> None:
    text = SAMPLE.read_text()
    (tmp_path / "params.yaml").write_text(text + "seed: 7\n")
    with pytest.raises(ConfigError, match=rf"key 'seed' is given twice; remove one.* line {len(text.splitlines()) + 1}"):
        load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text(text.replace("launch:\n", "launch:\n  threads: 1\n", 1))
    with pytest.raises(ConfigError, match="key 'threads' is given twice"):
        load(tmp_path / "params.yaml")
