"""Single parameters changed from the command line: `-S key=value`, as DVC's, for the verbs that read parameters themselves.

    alpro train finetune --task msvd_qa --recipe paper -S finetune.msvd_qa.batch_size=2 -S loader.workers=0 ...

The value is YAML (`null`, `[cc3m]`, `{vtc: 1, vtm: 0}`). The stages of dvc.yaml never use this: there params.yaml is all.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import yaml

from alpro.errors import ConfigError


def override(raw: dict[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """The same parameters with `section.key=value` changed in each of `changes`, in their order.

    Raises ConfigError for a change of another form and for a section that is not there; whether the key exists and the value
    fits is checked with all the others, by `config.parse`.
    """
    from alpro.errors import nearest

    raw = copy.deepcopy(raw)
    for change in changes:
        path, given, text = change.partition("=")
        keys = path.split(".")
        if not given or not all(keys):
            raise ConfigError(f"-S {change}: must be key=value, such as pretrain.batch_size=8")
        here = raw
        for depth, key in enumerate(keys[:-1], 1):
            if key not in here:
                raise ConfigError(f"-S {change}: there is no {'.'.join(keys[:depth])}{nearest(key, here)}")
            if here[key] is None:  # a section that is off, such as `sample` in the recipes for real data
                here[key] = {}
            if not isinstance(here[key], dict):
                raise ConfigError(f"-S {change}: {'.'.join(keys[:depth])} is a value, it holds no keys")
            here = here[key]
        try:
            here[keys[-1]] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"-S {change}: no YAML: {' '.join(str(error).split())}") from None
    return raw
