"""What becomes of each key of the released configuration files and options (config_release/*.json, log/args.json).

A key sets parameters (`To`), has one possible value here (`Only`), or has no effect (`Nothing`), with the reason: most of
those are parsed by the released code itself and never used. Where trainings differ, a key has a rule for each kind of them.
`{at}` stands for the training's section in params.yaml, `{data}` for the data set.
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
    """Sets parameters, each to what a function makes of the value and the whole file.

    The function raises ValueError, which says what is possible, for a value that has no like here.
    """

    changes: Mapping[str, Change]
    note: str = ""


@dataclass(frozen=True)
class Only:
    """Has one value here; another one is refused, as it would make another model or training."""

    value: Any
    why: str


@dataclass(frozen=True)
class Nothing:
    """Has no effect here."""

    why: str


Rule = To | Only | Nothing


def rule_of(rules: Mapping[str, Rule | Mapping[str, Rule]], key: str, kind: Kind | None) -> Rule:
    """The rule of a key in a training of this kind. Raises KeyError for an unknown key."""
    rule = rules[key]
    if isinstance(rule, Mapping):
        return rule.get(str(kind)) or rule["corpora" if kind in ("prompter", "pretrain") else "downstream"]
    return rule


def to(path: str, note: str = "") -> To:
    """A value taken as it is."""
    return To({path: lambda value, _: value}, note)


def choice(paths: Mapping[str, Mapping[Any, Any]], note: str = "") -> To:
    """One of some values, each with ours."""

    def chooser(choices: Mapping[Any, Any]) -> Change:
        def change(value: Any, _: Mapping[str, Any]) -> Any:
            if value not in choices:
                raise ValueError(f"must be {' or '.join(map(str, choices))}")
            return choices[value]

        return change

    return To({path: chooser(choices) for path, choices in paths.items()}, note)


def objective(name: str) -> dict[str, Rule]:
    """A loss that is on or off in pre-training, and has its fixed place elsewhere."""
    on = Only(1, "the prompter's only loss") if name == "vtc" else Only(0, "the prompter is trained by VTC alone")
    fixed = Nothing("fine-tuning has its own losses")
    return {"prompter": on, "pretrain": choice({f"pretrain.objectives.{name}": {0: 0.0, 1: 1.0}}), "downstream": fixed}


def _visual_weights(value: Any, _: Mapping[str, Any]) -> str:
    if value != "vit_base_patch16_224":
        raise ValueError(
            "must be vit_base_patch16_224; for other weights write a file like recipes/init/imagenet.yaml and name it in init.*"
        )
    return "recipes/init/imagenet.yaml"


def _same_dropout(value: Any, file: Mapping[str, Any]) -> Any:
    if value != file.get("attention_probs_dropout_prob", value):
        raise ValueError("must equal attention_probs_dropout_prob, as model.dropout is both")
    return value


CLASSIFIER = "the released classifier has two layers, the hidden one twice as wide, whatever this says; so has ours"
CLIPBERT = "left over from ClipBERT; the released code never uses it"
OPTION = "no parameter: an option of `alpro evaluate`"

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
    "img_pixel_mean": Only([0.48145466, 0.4578275, 0.40821073], "the checkpoints' own"),
    "img_pixel_std": Only([0.26862954, 0.26130258, 0.27577711], "the checkpoints' own"),
    "img_input_format": Only("RGB", "videos are decoded as RGB"),
    "frm_sampling_strategy": choice(
        {
            "{at}.train_frames": {"headtail": "headtail", "rand": "random"},
            "{at}.eval_frames": {"headtail": "headtail", "rand": "uniform_floor"},
        },
        "in evaluation `rand` becomes the released `uniform`",
    ),
    "fps": Nothing("handed to the reader of video files and never used there: frames are counted, not seconds"),
    "train_n_clips": Only(1, "the released code refuses any other number"),
    "inference_n_clips": Only(1, "one clip a video"),
    "max_n_example_per_group": Only(1, "one text a clip"),
    "score_agg_func": Nothing("it joins the scores of several clips, and there is one"),
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
        "downstream": to("init.finetune", "one for all fine-tunings"),
    },
    "teacher_weights_path": {"corpora": to("init.teacher"), "downstream": Nothing("fine-tuning has no prompter")},
    "bert_weights_path": Nothing("handed on and never read; recipes/init names BERT for both encoders"),
    "timesformer_model_cfg": Nothing("never read; visual_model_cfg is"),
    "clip_init": Only(0, "CLIP's weights are of another model"),
    "model_type": Only("pretrain", "the released code knows no other"),
    "entity_file_path": to("entities.source"),
    "num_entities": to("entities.number"),
    "num_labels": Nothing("max(answers, 1500) takes its place in the released code; here the answer list's length"),
    "classifier": Nothing(CLASSIFIER),
    "cls_hidden_scale": Nothing(CLASSIFIER),
    "loss_type": Nothing("overwritten in the released code; cross-entropy in both"),
    "dropout": Nothing("never read: the rate is the model's (hidden_dropout_prob, model.dropout)"),
    # --- objectives ---
    "use_itc": objective("vtc"),
    "use_itm": objective("vtm"),
    "use_mlm": objective("mlm"),
    "use_mpm": objective("pem"),
    # --- optimisation ---
    "train_batch_size": to("{at}.batch_size"),
    "val_batch_size": {
        "corpora": Nothing("validation takes train_batch_size"),
        "downstream": Nothing("no figure depends on it; evaluate.{data}.batch_pairs bounds the memory of validation"),
    },
    "eval_retrieval_batch_size": {
        "corpora": Nothing("pre-training retrieves nothing"),
        "downstream": to("evaluate.{data}.batch_pairs", "pairs of validation and evaluation"),
    },
    "gradient_accumulation_steps": to("{at}.accumulation"),
    "num_train_epochs": to("{at}.epochs"),
    "learning_rate": to("{at}.learning_rate"),
    "weight_decay": Nothing("never handed to the released optimizer; {at}.weight_decay would apply it, as recipe paper does"),
    "optim": Only("adamw", "AdamW as the released code writes it"),
    "betas": To({"{at}.betas": lambda value, _: [float(beta) for beta in value]}),
    "decay": Only("linear", "linear warm-up and decay"),
    "step_decay_epochs": Nothing("only the decay multi_step reads it, which the options do not offer"),
    "warmup_ratio": to("{at}.warmup_ratio"),
    "grad_norm": to("{at}.grad_clip"),
    "cnn_lr_decay": Nothing(CLIPBERT),
    "transformer_lr_mul": Nothing(CLIPBERT),
    "fp16": choice({"{at}.precision": {0: "fp32", 1: "fp16"}}, "torch's autocast in place of apex"),
    "seed": to("seed"),
    # --- the course of a training ---
    "num_valid": to("{at}.validations"),
    "min_valid_steps": Nothing("rounds the steps between two validations up; here they are spread evenly over the training"),
    "save_steps_ratio": Nothing("resume state is written by the clock: {at}.save_every_s"),
    "log_interval": to("{at}.log_every"),
    "n_workers": to("loader.workers"),
    "num_workers": Nothing("never read: the released code reads n_workers; here loader.workers"),
    "pin_mem": Nothing("memory is pinned where there is a GPU"),
    "data_ratio": Only(1.0, "shorten the annotation file instead"),
    "debug": Only(0, "`alpro train ... --max-steps N` stops early"),
    "output_dir": Nothing("an option of `alpro train`: --output; models/<recipe> in the pipeline"),
    "config": Nothing("this file"),
    "n_gpu": to("launch.processes"),
    "num_train_steps": Nothing("follows from the epochs"),
    "valid_steps": Nothing("follows from the validations"),
    # --- inference ---
    "do_inference": Nothing("`alpro evaluate` in place of `alpro train`"),
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
        {"model.fusion_layers": lambda value, file: value - file.get("fusion_layer", 6)}, "less fusion_layer"
    ),
    "vocab_size": to("model.vocab_size"),
    "max_position_embeddings": to("model.max_positions"),
    "hidden_dropout_prob": To({"model.dropout": _same_dropout}),
    "attention_probs_dropout_prob": to("model.dropout"),
    "hidden_act": Only("gelu", "the exact form, in both towers"),
    "layer_norm_eps": Only(1e-12, "BERT's"),
    "initializer_range": Only(0.02, "at width 768, scaled with the width"),
    "model_type": Only("bert", "text and multimodal encoder are BERT's two halves"),
    "pad_token_id": Only(0, "BERT's"),
    "type_vocab_size": Only(2, "BERT's"),
    "itc_token_type": Only("cls", "VTC compares the [CLS] tokens"),
    "encoder_width": Nothing("the width of a cross-attention that ALPRO does not have"),
}
VIDEO_RULES: dict[str, Rule | Mapping[str, Rule]] = {
    "cls": Only("TimeSformer", "the only video encoder"),
    "patch_size": to("model.patch_size"),
    "drop_path_rate": to("model.drop_path"),
    "attn_drop_rate": Only(0, "no dropout in the video encoder"),
    "drop_rate": Only(0, "no dropout in the video encoder"),
    "use_maxpooling": Only(False, "tokens are averaged over time"),
    "maxpool_kernel_size": Nothing("without use_maxpooling there is no such pooling"),
    "gradient_checkpointing": choice(
        {"{at}.gradient_checkpointing": {False: "none", True: "official"}},
        "`official` loses the gradients that the released code loses; `exact` keeps them",
    ),
}
