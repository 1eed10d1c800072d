"""Changes of single parameters on the command line: `-S key=value`, written as for `dvc exp run`.

    alpro train finetune --task msvd_qa --recipe paper -S finetune.msvd_qa.batch_size=2 -S loader.workers=0 ...

The value is YAML (`null`, `[cc3m]`, `{vtc: 1, vtm: 0}`). The stages of dvc.yaml read only params.yaml.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import yaml

from alpro.errors import ConfigError, nearest


def override(raw: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the parameters with each change of the form `section.key=value` applied, in order.

    Raises ConfigError for a change of another form or in an unknown section. Keys and values are checked later, by `parse`.
    """
    raw = copy.deepcopy(raw)
    for change in changes:
        path, equals, text = change.partition("=")
        keys = path.split(".")
        if not equals or not all(keys):
            raise ConfigError(f"-S {change}: must be key=value, such as pretrain.batch_size=8")
        here = raw
        for depth, key in enumerate(keys[:-1], 1):
            if key not in here:
                raise ConfigError(f"-S {change}: no section {'.'.join(keys[:depth])}{nearest(key, here)}")
            if here[key] is None:  # an optional section, such as `sample` in the recipes for real data
                here[key] = {}
            if not isinstance(here[key], dict):
                raise ConfigError(f"-S {change}: {'.'.join(keys[:depth])} is a value, not a section")
            here = here[key]
        try:
            here[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"-S {change}: not valid YAML: {' '.join(str(error).split())}") from None
    return raw
