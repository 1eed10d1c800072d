"""One rule for each key of the released configuration files and options (config_release/*.json, log/args.json).

A key sets parameters (`To`), has one supported value (`Only`), or has no effect (`Nothing`). Most keys without effect are
parsed by the released code and never used. If trainings differ, a key has one rule per kind of training. `{at}` stands for
the section of the training in params.yaml, `{data}` for the dataset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

Kind = Literal["prompter", "pretrain", "retrieval", "qa"]
Change = Callable[[Any, Mapping[str, Any]], Any]


@dataclass(frozen=True)
class To:
    """The key sets parameters; a function computes each from the key's value and the whole file.

    The function raises ValueError with the supported values if a value is not supported.
    """

    changes: Mapping[str, Change]
    note: str = ""


@dataclass(frozen=True)
class Only:
    """The key has one supported value; another one would give a different model or training."""

    value: Any
    why: str


@dataclass(frozen=True)
class Nothing:
    """The key has no effect here."""

    why: str


Rule = To | Only | Nothing


def rule_of(rules: Mapping[str, Rule | Mapping[str, Rule]], key: str, kind: Kind | None) -> Rule:
    """Return the rule of a key for a kind of training. Raises KeyError for an unknown key."""
    rule = rules[key]
    if isinstance(rule, Mapping):
        return rule.get(str(kind)) or rule["corpora" if kind in ("prompter", "pretrain") else "downstream"]
    return rule


def to(path: str, note: str = "") -> To:
    """Return a rule that copies the value."""
    return To({path: lambda value, _: value}, note)


def choice(paths: Mapping[str, Mapping[Any, Any]], note: str = "") -> To:
    """Return a rule that maps each supported value to a value of the parameter."""

    def chooser(choices: Mapping[Any, Any]) -> Change:
        def change(value: Any, _: Mapping[str, Any]) -> Any:
            if value not in choices:
                raise ValueError(f"must be {' or '.join(map(str, choices))}")
            return choices[value]

        return change

    return To({path: chooser(choices) for path, choices in paths.items()}, note)


def objective(name: str) -> dict[str, Rule]:
    """Return the rules of a loss that can be turned off in pre-training only."""
    on = Only(1, "the prompter's only loss") if name == "vtc" else Only(0, "the prompter is trained with VTC only")
    fixed = Nothing("fine-tuning has its own losses")
    return {"prompter": on, "pretrain": choice({f"pretrain.objectives.{name}": {0: 0.0, 1: 1.0}}), "downstream": fixed}


def _visual_weights(value: Any, _: Mapping[str, Any]) -> str:
    if value != "vit_base_patch16_224":
        raise ValueError(
            "must be vit_base_patch16_224; for other weights, write a file like recipes/init/imagenet.yaml and set init.* to it"
        )
    return "recipes/init/imagenet.yaml"


def _same_dropout(value: Any, file: Mapping[str, Any]) -> Any:
    if value != file.get("attention_probs_dropout_prob", value):
        raise ValueError("must equal attention_probs_dropout_prob, as model.dropout sets both")
    return value


CLASSIFIER = "ignored by the released code, whose classifier always has a hidden layer of twice the width; same here"
CLIPBERT = "a remnant of ClipBERT that the released code never uses"
OPTION = "an option of `alpro evaluate`"

RULES: dict[str, Rule | Mapping[str, Rule]] = {
    # --- texts, frames ---
    "max_txt_len": to("{at}.max_text_tokens"),
    "num_frm": to("{at}.num_frames"),
    "crop_img_size": to("model.image_size"),
    "resize_size": {
        "corpora": to("{at}.decode_size"),
        "downstream": Nothing(
            "the released code decodes straight to crop_img_size in fine-tuning; {at}.decode_size would use it"
        ),
    },
    "img_pixel_mean": Only([0.48145466, 0.4578275, 0.40821073], "the values of the checkpoints"),
    "img_pixel_std": Only([0.26862954, 0.26130258, 0.27577711], "the values of the checkpoints"),
    "img_input_format": Only("RGB", "videos are decoded as RGB"),
    "frm_sampling_strategy": choice(
        {
            "{at}.train_frames": {"headtail": "headtail", "rand": "random"},
            "{at}.eval_frames": {"headtail": "headtail", "rand": "uniform_floor"},
        },
        "in evaluation `rand` becomes the released `uniform`",
    ),
    "fps": Nothing("passed to the video reader and never used there"),
    "train_n_clips": Only(1, "the released code accepts no other number"),
    "inference_n_clips": Only(1, "one clip per video"),
    "max_n_example_per_group": Only(1, "one text per clip"),
    "score_agg_func": Nothing("combines the scores of several clips, but there is one"),
    "random_sample_clips": Nothing(CLIPBERT),
    # --- model, weights ---
    "tokenizer_dir": To({"text.tokenizer": lambda value, _: str(PurePosixPath(value))}),
    "visual_weights_path": {
        "corpora": To({"init.{at}": _visual_weights}),
        "downstream": Nothing("read only without e2e_weights_path; init.finetune may name a file of recipes/init"),
    },
    "e2e_weights_path": {
        "prompter": to("init.prompter", "the released training of the prompter fails on it"),
        "pretrain": to("init.pretrain"),
        "downstream": to("init.finetune", "one value for all fine-tunings"),
    },
    "teacher_weights_path": {"corpora": to("init.teacher"), "downstream": Nothing("fine-tuning has no prompter")},
    "bert_weights_path": Nothing("never read; recipes/init sets BERT for both encoders"),
    "timesformer_model_cfg": Nothing("never read; visual_model_cfg is used"),
    "clip_init": Only(0, "CLIP's weights belong to another model"),
    "model_type": Only("pretrain", "the released code has no other"),
    "entity_file_path": to("entities.source"),
    "num_entities": to("entities.number"),
    "num_labels": Nothing("the released code uses max(answers, 1500); here it is the length of the answer list"),
    "classifier": Nothing(CLASSIFIER),
    "cls_hidden_scale": Nothing(CLASSIFIER),
    "loss_type": Nothing("overwritten by the released code; cross-entropy in both"),
    "dropout": Nothing("never read; hidden_dropout_prob sets model.dropout"),
    # --- objectives ---
    "use_itc": objective("vtc"),
    "use_itm": objective("vtm"),
    "use_mlm": objective("mlm"),
    "use_mpm": objective("pem"),
    # --- optimisation ---
    "train_batch_size": to("{at}.batch_size"),
    "val_batch_size": {
        "corpora": Nothing("validation uses train_batch_size"),
        "downstream": Nothing("does not affect results; evaluate.{data}.batch_pairs limits the memory of validation"),
    },
    "eval_retrieval_batch_size": {
        "corpora": Nothing("pre-training has no retrieval"),
        "downstream": to("evaluate.{data}.batch_pairs", "pairs of validation and evaluation"),
    },
    "gradient_accumulation_steps": to("{at}.accumulation"),
    "num_train_epochs": to("{at}.epochs"),
    "learning_rate": to("{at}.learning_rate"),
    "weight_decay": Nothing("never passed to the released optimizer; {at}.weight_decay applies it, as in recipe paper"),
    "optim": Only("adamw", "AdamW as implemented by the released code"),
    "betas": To({"{at}.betas": lambda value, _: [float(beta) for beta in value]}),
    "decay": Only("linear", "linear warm-up and decay"),
    "step_decay_epochs": Nothing("read only by the decay multi_step, which the options do not offer"),
    "warmup_ratio": to("{at}.warmup_ratio"),
    "grad_norm": to("{at}.grad_clip"),
    "cnn_lr_decay": Nothing(CLIPBERT),
    "transformer_lr_mul": Nothing(CLIPBERT),
    "fp16": choice({"{at}.precision": {0: "fp32", 1: "fp16"}}, "torch's autocast instead of apex"),
    "seed": to("seed"),
    # --- running a training ---
    "num_valid": to("{at}.validations"),
    "min_valid_steps": Nothing("rounds the validation interval up; here validations are evenly spaced"),
    "save_steps_ratio": Nothing("resume state is saved at time intervals: {at}.save_every_s"),
    "log_interval": to("{at}.log_every"),
    "n_workers": to("loader.workers"),
    "num_workers": Nothing("never read; n_workers sets loader.workers"),
    "pin_mem": Nothing("memory is pinned if there is a GPU"),
    "data_ratio": Only(1.0, "shorten the annotation file instead"),
    "debug": Only(0, "`alpro train ... --max-steps N` stops early"),
    "output_dir": Nothing("an option of `alpro train`: --output; models/<recipe> in the pipeline"),
    "config": Nothing("this file"),
    "n_gpu": to("launch.processes"),
    "num_train_steps": Nothing("follows from the epochs"),
    "valid_steps": Nothing("follows from the validations"),
    # --- inference ---
    "do_inference": Nothing("use `alpro evaluate` instead of `alpro train`"),
    "inference_model_step": Nothing(f"{OPTION}: --step"),
    "inference_split": Nothing(f"{OPTION}: the name of --annotations; evaluate.{{data}}.split"),
    "inference_txt_db": Nothing(f"{OPTION}: --annotations"),
    "inference_img_db": Nothing(f"{OPTION}: --videos"),
    "inference_batch_size": Nothing(f"{OPTION}: --batch-size; evaluate.{{data}}.batch_pairs"),
}

# --- the model files that `model_config` and `visual_model_cfg` name ---
TEXT_RULES: dict[str, Rule | Mapping[str, Rule]] = {
    "hidden_size": to("model.width"),
    "num_attention_heads": to("model.heads"),
    "intermediate_size": to("model.intermediate"),
    "fusion_layer": to("model.text_layers"),
    "num_hidden_layers": To(
        {"model.fusion_layers": lambda value, file: value - file.get("fusion_layer", 6)}, "minus fusion_layer"
    ),
    "vocab_size": to("model.vocab_size"),
    "max_position_embeddings": to("model.max_positions"),
    "hidden_dropout_prob": To({"model.dropout": _same_dropout}),
    "attention_probs_dropout_prob": to("model.dropout"),
    "hidden_act": Only("gelu", "the exact form, in both encoders"),
    "layer_norm_eps": Only(1e-12, "BERT's"),
    "initializer_range": Only(0.02, "at width 768, scaled with the width"),
    "model_type": Only("bert", "the text and multimodal encoders are the two halves of BERT"),
    "pad_token_id": Only(0, "BERT's"),
    "type_vocab_size": Only(2, "BERT's"),
    "itc_token_type": Only("cls", "VTC compares the [CLS] tokens"),
    "encoder_width": Nothing("width of a cross-attention that ALPRO does not have"),
}
VIDEO_RULES: dict[str, Rule | Mapping[str, Rule]] = {
    "cls": Only("TimeSformer", "the only video encoder"),
    "patch_size": to("model.patch_size"),
    "drop_path_rate": to("model.drop_path"),
    "attn_drop_rate": Only(0, "no dropout in the video encoder"),
    "drop_rate": Only(0, "no dropout in the video encoder"),
    "use_maxpooling": Only(False, "tokens are averaged over time"),
    "maxpool_kernel_size": Nothing("used only with use_maxpooling"),
    "gradient_checkpointing": choice(
        {"{at}.gradient_checkpointing": {False: "none", True: "official"}},
        "`official` drops the same gradients as the released code; `exact` keeps them",
    ),
}
