"""Changes of single parameters on the command line, `-S key=value`, in the grammar of `dvc exp run -S`, which is Hydra's.

    alpro train finetune --task msvd_qa --recipe paper -S finetune.msvd_qa.batch_size=2 -S 'pretrain.corpora=[cc3m]' ...

`key=value` changes a parameter, `+key=value` adds one, `++key=value` does either, `~key` removes one. `key=1,2` is a sweep,
which only `dvc exp run --queue` takes. The stages of dvc.yaml read only params.yaml.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from alpro.errors import ConfigError, nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


def override(raw: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the parameters with each change applied, in order.

    Raises ConfigError for a change of another form, a sweep, or a section that does not exist. Keys and values are checked
    later, by `parse`.
    """
    raw = copy.deepcopy(raw)
    for change in changes:
        parsed = _parse(change)
        keys = parsed.key_or_group.split(".")
        section = _section(raw, keys[:-1], change, create=parsed.is_add() or parsed.is_force_add())
        if parsed.is_delete():
            if keys[-1] not in section:
                raise ConfigError(f"-S {change}: no parameter {parsed.key_or_group}{nearest(keys[-1], section)}")
            del section[keys[-1]]
        elif parsed.is_add() and keys[-1] in section:
            raise ConfigError(f"-S {change}: {parsed.key_or_group} exists; `{change.lstrip('+')}` changes it")
        else:
            section[keys[-1]] = _merged(section.get(keys[-1]), parsed.value())
    return raw


def _merged(old: Any, new: Any) -> Any:
    """Return a new value; keys of a section that it does not name stay, as in Hydra."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {key: _merged(old.get(key), value) for key, value in new.items()}


def _parse(change: str) -> Override:
    from hydra.core.override_parser.overrides_parser import OverridesParser  # half a second, so only if it is needed
    from hydra.errors import HydraException

    form = "must be key=value, +key=value or ~key, such as pretrain.batch_size=8"
    if "${" in change:  # could read secrets from the environment
        raise ConfigError(f"-S {change}: `${{` is not allowed; write the value itself")
    try:
        parsed = OverridesParser.create().parse_override(change)
    except HydraException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"-S {change}: {form}; put text with special characters in quotes ({reason})") from None
    if not all(parsed.key_or_group.split(".")) or parsed.package is not None:
        raise ConfigError(f"-S {change}: {form}")
    if parsed.is_sweep_override():
        raise ConfigError(
            f"-S {change}: is a sweep; run `dvc exp run --queue -S '{change}'`, or write a list as {parsed.key_or_group}=[...]"
        )
    return parsed


def _section(raw: dict[str, Any], keys: Sequence[str], change: str, create: bool) -> dict[str, Any]:
    """Return the section at a path of keys; an optional one that is null is made, a missing one only if `create`."""
    here = raw
    for depth, key in enumerate(keys, 1):
        if key not in here and not create:
            raise ConfigError(f"-S {change}: no section {'.'.join(keys[:depth])}{nearest(key, here)}")
        if here.get(key) is None:  # such as `sample` in the recipes for real data
            here[key] = {}
        if not isinstance(here[key], dict):
            raise ConfigError(f"-S {change}: {'.'.join(keys[:depth])} is a value, not a section")
        here = here[key]
    return here
