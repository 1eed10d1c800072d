"""Finds the state dict in what trainers and frameworks save around it, and removes the prefixes that wrappers add to names.

    {"state_dict": {"model.module._orig_mod.visual_encoder...": ...}, "epoch": 3}  ->  {"visual_encoder...": ...}

Each step is reported in a sentence, as is everything of the state dict that is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alpro.errors import CheckpointError
from alpro.files.names import brief, some

# Keys of the state dict: released code and LAVIS, Lightning, DeepSpeed, PySlowFast, and others.
WRAPPER_KEYS = ("model", "model_state", "model_state_dict", "state_dict", "module", "net", "weights", "params")
# Prefixes of all names: DDP and DeepSpeed, torch.compile, Lightning and LAVIS, FSDP, activation checkpointing.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "_forward_module.")
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # also in the middle of a name
ALPRO = ("visual_encoder.", "text_encoder.", "prompter.")
MAX_DEPTH = 8


def unwrap(content: Any, leaf: type) -> tuple[dict[str, Any], list[str]]:
    """Return the state dict in a file's content, without prefixes of wrappers, and sentences on what was unwrapped.

    `leaf` is the type of its values: a tensor, or the description of one. Raises CheckpointError if there is no state dict,
    or if two of its names become one.
    """
    notes: list[str] = []
    content, path, siblings = _inner(content, leaf)
    if path:
        notes.append(f"unwrapped: the state dict was under {' > '.join(path)}")
    if siblings:
        notes.append(f"not used, though they have tensors too: {some(siblings)}")
    state = {str(key): value for key, value in content.items() if isinstance(value, leaf)}
    if others := [str(key) for key, value in content.items() if not isinstance(value, leaf)]:
        notes.append(f"not used, as they are no tensors: {some(others)}")
    short, removed = _without_prefixes(state)
    if len(set(short.values())) < len(short):
        one = next(name for name in short.values() if list(short.values()).count(name) > 1)
        both = " and ".join(brief(key) for key, name in short.items() if name == one)
        raise CheckpointError(f"{both} are both {brief(one)} without the prefixes of wrappers; keep one of them")
    if removed:
        notes.append(f"unwrapped: the names began with, or contained, {', '.join(map(repr, removed))}")
    if unused := [key for key in state if key not in short]:
        notes.append(f"not used, as they are outside of the model: {some(unused)}")
    return {name: state[key] for key, name in short.items()}, notes


def _inner(content: Any, leaf: type) -> tuple[Mapping[Any, Any], list[str], list[str]]:
    """Return the mapping of names to tensors inside of others, the keys that lead to it, and those of other tensors.

    It is the first one with the names of ALPRO's parts, else the innermost one with tensors.
    """

    def has_tensors(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(inner, leaf) for inner in value.values())

    def has_parts(value: Any) -> bool:
        return any(isinstance(inner, leaf) and _is_part(str(key)) for key, inner in value.items())

    path = _path(content, has_parts, inner_first=False)
    if path is None:
        path = _path(content, has_tensors, inner_first=True)
    if path is None:
        raise CheckpointError("has no state dict (names and tensors); give a file with a model's weights")
    siblings: list[str] = []
    for chosen in path:
        siblings += [str(key) for key, value in content.items() if key != chosen and has_tensors(value)]
        content = content[chosen]
    return content, path, siblings


def _path(content: Any, accept: Callable[[Any], bool], *, inner_first: bool) -> list[str] | None:
    """Return the wrapper keys that lead to the first mapping that is accepted, or None."""
    failed: dict[int, int] = {}  # mapping -> depth from which it led nowhere; files may refer to one mapping in many places

    def search(value: Any, depth: int) -> list[str] | None:
        if depth > MAX_DEPTH or not isinstance(value, Mapping) or failed.get(id(value), depth + 1) <= depth:
            return None
        accepted = accept(value)
        if accepted and not inner_first:
            return []
        for key in WRAPPER_KEYS:
            if (path := search(value.get(key), depth + 1)) is not None:
                return [key, *path]
        if accepted:
            return []
        failed[id(value)] = depth
        return None

    return search(content, 0)


def _is_part(name: str) -> bool:
    """Return True if a name without the prefixes of wrappers is that of a tensor in one of ALPRO's parts."""
    for inside in INSIDE:
        name = name.replace(inside, "")
    while prefix := next((prefix for prefix in PREFIXES if name.startswith(prefix)), None):
        name = name.removeprefix(prefix)
    return name.startswith(ALPRO)


def _without_prefixes(state: Mapping[str, Any]) -> tuple[dict[str, str], list[str]]:
    """Return {name in the file: name without prefixes} of the model's tensors, and the prefixes."""
    names, removed = {key: key for key in state}, []
    for inside in INSIDE:
        if any(inside in name for name in names.values()):
            names = {key: name.replace(inside, "") for key, name in names.items()}
            removed.append(inside)
    while prefix := _prefix(list(names.values())):
        names = {key: name.removeprefix(prefix) for key, name in names.items() if name.startswith(prefix)}
        removed.append(prefix)
    return names, list(dict.fromkeys(removed))


def _prefix(names: list[str]) -> str | None:
    """Return a prefix that all names have, or that the names of ALPRO's parts have if none is there without it."""
    for prefix in PREFIXES:
        begin = [name for name in names if name.startswith(prefix)]
        parts = any(name.startswith(tuple(prefix + part for part in (*ALPRO, *PREFIXES))) for name in begin)
        if begin and (len(begin) == len(names) or (parts and not any(name.startswith(ALPRO) for name in names))):
            return prefix
    return None
