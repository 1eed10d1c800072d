"""Converts the data of a released configuration to `corpora` and `datasets` of params.yaml."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from alpro.config.released.keys import Kind

NAMES = {"msrvtt": "msrvtt_ret", "didemo": "didemo_ret"}  # retrieval datasets; the others have the same name here
TEMPLATES = {"retrieval": "msrvtt_ret", "qa": "msrvtt_qa"}  # a dataset with another name starts from these settings
ANSWERS = "train_ans2label.json"
PICKLES = (".pkl", ".pickle")
Sets = dict[str, tuple[dict[str, Any], str]]  # key of the file -> (parameters that it sets, remark)


def training_of(content: Mapping[str, Any]) -> tuple[Kind, str]:
    """Return the kind of training and the name of its dataset ("" for caption corpora). Raises ValueError."""
    entries = content["train_datasets"]
    if not isinstance(entries, list) or not entries or not all(isinstance(e, dict) and "name" in e for e in entries):
        raise ValueError("train_datasets: must list objects with a name")
    if any(entry.get("ann") for entry in entries):
        return ("pretrain" if any(content.get(f"use_{loss}") for loss in ("itm", "mlm", "mpm")) else "prompter"), ""
    if len(entries) > 1:
        raise ValueError("train_datasets: a fine-tuning has one dataset")
    name = str(entries[0]["name"])
    if content.get("ans2label_path") or content.get("task"):
        return "qa", str(content.get("task") or name)
    return "retrieval", NAMES.get(name, name)


def dataset(content: Mapping[str, Any], kind: Kind, name: str, params: dict[str, Any]) -> Sets:
    """Return the parameters for the data of a fine-tuning; a new dataset gets settings in `params`. Raises ValueError."""
    if name not in params["datasets"]:
        template = TEMPLATES[kind]
        for section in ("finetune", "evaluate", "datasets"):
            params[section][name] = copy.deepcopy(params[section][template])
        params["evaluate"][name]["checkpoint"] = f"models/{params['recipe']}/finetune/{name}"
    folders: set[str] = set()
    videos: set[str] = set()
    for key, split in (("train_datasets", "train"), ("val_datasets", "val")):
        for entry in content.get(key) or []:
            text = entry.get("txt")
            text = next(iter(text.values())) if isinstance(text, dict) and len(text) == 1 else text
            if not isinstance(text, str) or PurePosixPath(text).name != f"{split}.jsonl":
                raise ValueError(f"{key}: txt {text!r}: must be one file named {split}.jsonl, as a dataset is a folder here")
            folders.add(str(PurePosixPath(text).parent))
            videos.add(str(PurePosixPath(entry["img"])))
    if len(folders) > 1 or len(videos) > 1:
        raise ValueError(
            f"train_datasets, val_datasets: must share one folder of texts and one of videos, not {sorted(folders | videos)}"
        )
    annotations, video_folder = folders.pop(), videos.pop()
    sets: Sets = {
        "train_datasets": ({f"datasets.{name}.annotations": annotations, f"datasets.{name}.videos": video_folder}, ""),
        "val_datasets": ({}, f"datasets.{name} has the splits of one folder"),
    }
    answers = content.get("ans2label_path")
    if kind == "qa" and answers:
        if PurePosixPath(answers) != PurePosixPath(annotations) / ANSWERS:
            raise ValueError(f"ans2label_path {answers!r}: must be {annotations}/{ANSWERS}, the answer list of the dataset")
        sets["ans2label_path"] = ({}, f"read from datasets.{name}.annotations")
    if "task" in content:
        sets["task"] = ({}, "the name of the dataset")
    return {key: entry for key, entry in sets.items() if key in content}


def corpora(content: Mapping[str, Any], kind: Kind, params: dict[str, Any]) -> Sets:
    """Return the parameters for the caption corpora. Raises ValueError."""
    train: dict[str, Any] = {f"{kind}.corpora": [entry["name"] for entry in content["train_datasets"]]}
    remark = ""
    for entry in content["train_datasets"]:
        name, file = entry["name"], _annotations(entry)
        media = "image" if file.endswith(".json") else "video"
        params["corpora"].setdefault(name, {"media": media, "train": file, "val": None, "root": ""})
        train |= {f"corpora.{name}.media": media, f"corpora.{name}.train": file}
        if file != entry["ann"]:
            remark = "a pickle can run code: convert it to .csv with `alpro data unpickle`"
        if entry.get("img"):
            train[f"corpora.{name}.root"] = str(PurePosixPath(entry["img"]))
        elif not params["corpora"][name]["root"]:
            raise ValueError(f"train_datasets: {name}: img must be the folder with its files")
    val: dict[str, Any] = {}
    for entry in content.get("val_datasets") or []:
        if f"corpora.{entry['name']}.train" not in train:
            raise ValueError(f"val_datasets: {entry['name']} is not among train_datasets")
        val[f"corpora.{entry['name']}.val"] = _annotations(entry)
    sets: Sets = {"train_datasets": (train, remark), "val_datasets": (val, remark)}
    return {key: entry for key, entry in sets.items() if key in content}


def _annotations(entry: Mapping[str, Any]) -> str:
    path = PurePosixPath(entry["ann"])
    return str(path.with_suffix(".csv") if path.suffix in PICKLES else path)
