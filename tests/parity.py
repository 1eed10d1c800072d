"""Comparison of this code with every golden of tests/goldens, for the tests and the parity table (see CASES).

A case yields differences. The difference of an output is the largest |got - want| / (|want| + 0.1); 1e-4 means within 1e-4
relative plus 1e-5 absolute. The difference of a gradient's norm is relative. That of a probe (product with seeded noise, which
checks the direction) is relative to the gradient's norm. Gradients under 1e-6 (key biases, exactly zero) count absolutely.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from alpro.checkpoints.load import LoadReport, fit
from alpro.config import PEM, Model
from alpro.models import build_model, normalize
from alpro.models.encoders import Alpro
from alpro.models.prompter import TEMPLATES, entity_prompts
from alpro.models.timesformer import TimeSformer
from alpro.objectives import pem, vtc_loss
from alpro.objectives.precision import autocast
from tests.goldens_recipe import arrays, batch_of, case, draw, model_of, pixels, value

OUTPUT, GRADIENT = 1e-4, 1e-3
_device = torch.device("cpu")  # on which models run, see `worst`
MANIFESTS: dict[str, dict[str, Any]] = {
    "pretrain": {"task": "pretrain", "num_frames": 4, "num_entities": 1000},
    "prompter": {"task": "prompter", "num_frames": 4, "num_entities": 1000},
    "retrieval": {"task": "retrieval", "num_frames": 8},
    "qa_msrvtt": {"task": "qa", "num_frames": 16, "num_answers": 1500},
    "qa_msvd": {"task": "qa", "num_frames": 16, "num_answers": 2423},
}


@dataclass(frozen=True)
class Difference:
    """Difference of one quantity from the golden, and its tolerance.

    `rms` is the norm of the difference of an output divided by the golden's norm; it is what half precision is judged by.
    """

    what: str
    error: float
    tolerance: float
    rms: float | None = None


Differences = Iterator[Difference]


@dataclass(frozen=True)
class Case:
    """The comparison of one golden, and whether it is slow."""

    compare: Callable[[], Differences]
    slow: bool


# --- how numbers are compared -----------------------------------------------------------------------------


def output(what: str, got: Any, want: Any) -> Difference:
    """Return the difference of an output."""
    got, want = (torch.as_tensor(value).to("cpu", torch.float64) for value in (got, want))
    if got.shape != want.shape:
        return Difference(f"{what}: shape {tuple(got.shape)}, not {tuple(want.shape)}", math.inf, OUTPUT)
    rms = float((got - want).norm() / want.norm().clamp(min=1e-6))
    return Difference(what, float(((got - want).abs() / (want.abs() + 0.1)).max()), OUTPUT, rms)


def exact(what: str, got: Any, want: Any) -> Difference:
    """Return the difference of values that must be equal: 0 or infinite."""
    return Difference(what, 0.0 if got == want else math.inf, 0.0)


def statistics(what: str, tensor: Tensor, want: dict[str, Any]) -> Differences:
    """Compare shape, mean, deviation, norm and largest magnitude of a tensor; the golden stores only a slice."""
    t = tensor.detach().cpu().double()
    got = {"mean": t.mean(), "std": t.std(correction=0), "l2": t.norm(), "absmax": t.abs().max()}
    yield exact(f"{what} shape", list(tensor.shape), want["shape"])
    for name, number in got.items():
        yield replace(output(f"{what} {name}", number, want[name]), rms=None)


def gradients(model: nn.Module, want: dict[str, Any], total: float | None = None) -> Differences:
    """Compare norm and probe of every parameter's gradient; the golden has None for no gradient."""
    norms, probes = want["grad_l2_norm"], want["grad_probe_dot"]
    squares = 0.0
    for key, parameter in model.named_parameters():
        norm = norms.get(key)
        if parameter.grad is None or norm is None:
            yield exact(f"{key} has a gradient", parameter.grad is None, norm is None)
            continue
        gradient = parameter.grad.cpu().double()
        got = float(gradient.norm())
        squares += got**2
        scale = norm if norm > 1e-6 else 1e-6 / GRADIENT
        yield Difference(f"norm of {key}", abs(got - norm) / scale, GRADIENT)
        if key in probes and norm > 1e-6:
            probe = float((gradient * draw(f"probe:{key}", parameter.shape).double()).sum())
            yield Difference(f"probe of {key}", abs(probe - probes[key]) / norm, GRADIENT)
    if total is not None:
        yield Difference("norm of the whole gradient", abs(math.sqrt(squares) - total) / total, GRADIENT)


@lru_cache(maxsize=1)
def _model(task: str, **arguments: Any) -> Alpro:
    return model_of(task, **arguments)


def fresh(task: str, **arguments: Any) -> Alpro:
    """Return the recipe's model without gradients; the last model is cached for the next case."""
    model = _model(task, **arguments).to(_device)
    model.zero_grad()
    return model


def here(value: Any) -> Any:
    """Return a tensor or a batch on the device that is compared."""
    return value.to(_device)


# --- a: video encoder -------------------------------------------------------------------------------------


def video_encoder(name: str) -> Differences:
    golden, saved = case("a_timesformer")["cases"][name], arrays("a_timesformer")
    encoder = _encoder(golden["model_num_frm"])
    with torch.no_grad():
        clips = here(pixels(golden["pixels"], golden["T"], golden["size"]))
        unpooled = encoder.model(clips)
        patches = unpooled[:, 1:].unflatten(1, (-1, golden["T"]))
        pooled = torch.cat([unpooled[:, :1], patches.mean(2)], 1)
        if name == "T2":
            yield output("pooled by the encoder itself", encoder(clips), pooled)
    yield output("pooled", pooled[:, ::8, ::8], saved[f"pooled_{name}"])
    yield from statistics("pooled", pooled, golden["pooled"])
    if f"spatial_pool_{name}" in saved:
        spatial = torch.cat([unpooled[:, :1], patches.mean(1)], 1)
        yield output("mean over space", spatial[..., ::8], saved[f"spatial_pool_{name}"])
    if "unpooled" in golden:
        yield output("unpooled", unpooled[:, ::37, ::8], saved[f"unpooled_{name}"])
        yield output("pooled [CLS]", pooled[:, 0], saved[f"pooled_cls_{name}"])
        yield from statistics("unpooled", unpooled, golden["unpooled"])


@lru_cache(maxsize=1)
def _encoder(frames: int, size: int = 224) -> TimeSformer:
    """Build the recipe's video encoder."""
    with torch.device("meta"):
        encoder = TimeSformer(Model(image_size=size), frames)
    state = {key: value(f"visual_encoder.{key}", tensor) for key, tensor in encoder.state_dict().items()}
    encoder.load_state_dict(state, assign=True)
    return encoder.eval().to(_device)


def resized_encoder(name: str) -> Differences:
    golden, saved = case("a_resize")["cases"][name], arrays("a_resize")
    source = _encoder(4).model.state_dict()
    target = TimeSformer(Model(image_size=golden["size"]), golden["T"]).eval().to(_device)
    prefix = "visual_encoder.model."
    own = {prefix + key: tensor for key, tensor in target.model.state_dict().items()}
    report = fit(own, {prefix + key: tensor for key, tensor in source.items()}, LoadReport("224 px, 4 frames", name), name)
    yield exact("resized", set(report.resized), {f"{prefix}{kind}_embed" for kind in ("time", "pos") if _changes(golden, kind)})
    with torch.no_grad():
        tokens = target(here(pixels(golden["pixels"], golden["T"], golden["size"])))
    yield output("pooled", tokens[:, ::8, ::8], saved[f"{name}_pooled"])
    yield from statistics("pooled", tokens, golden["pooled"])
    for kind, rows in (("time", golden["time_source_rows"]), ("pos", golden["pos_source_rows"])):
        made, old = getattr(target.model, f"{kind}_embed").detach(), source[f"{kind}_embed"]
        step = 4 if kind == "pos" else 1
        yield exact(f"{kind}_embed's source rows", made.equal(old[:, rows]), True)
        yield output(f"{kind}_embed", made[:, ::step, ::8], saved[f"{name}_{kind}_embed"])
        yield from statistics(f"{kind}_embed", made, golden[f"{kind}_embed"])


def _changes(golden: dict[str, Any], kind: str) -> bool:
    return golden["T"] != 4 if kind == "time" else golden["size"] != 224


def runtime_interpolation() -> Differences:
    saved, golden = arrays("a_resize"), case("a_resize")
    encoder = _encoder(4).model
    with torch.no_grad():
        longer, larger = encoder(here(pixels(["vid0"], 8))), encoder(here(pixels(["vid0"], 4, 256)))
    yield output("8 frames", longer[:, ::37, ::8], saved["runtime_T8_in_4frame_model_unpooled"])
    yield output("256 px", larger[:, ::37, ::8], saved["runtime_256px_in_224_model_unpooled"])
    yield from statistics("256 px", larger, golden["runtime_256px_in_224_model_unpooled"])


# --- b, c, d: text encoder and retrieval ------------------------------------------------------------------


def text_encoder() -> Differences:
    golden, saved = case("b_text_encoder"), arrays("b_text_encoder")
    model = fresh("retrieval", num_frames=8)
    with torch.no_grad():
        text = model.encode_text(*(here(torch.tensor(golden[key])) for key in ("input_ids", "attention_mask")))
        yield output("feature", model.text_feature(text), saved["text_feat"])
    yield output("last hidden state", text[:, ::4, ::8], saved["text_last_hidden"])
    yield from statistics("last hidden state", text, golden["text_last_hidden"])


def retrieval_inference(name: str) -> Differences:
    saved, batch = arrays(name), here(batch_of(case(name)))
    model = fresh("retrieval", num_frames=8)
    mask = batch.attention_mask
    with torch.no_grad():
        video, text = model.encode_video(batch.pixels), model.encode_text(batch.input_ids, mask)
        logits = model.match(text, mask, video.expand(len(text), -1, -1))
        v, t = model.video_feature(video), model.text_feature(text)
    yield output("VTM logits", logits, saved["logits"])
    yield output("VTC scores", v @ t.T / model.temp.item(), saved["itc_scores"])
    if "itm_prob" in saved:
        yield output("VTM probability", logits.softmax(1)[:, 1], saved["itm_prob"])
        yield output("video feature", v, saved["video_feat"])
        yield output("text features", t, saved["text_feat"])


def retrieval_training() -> Differences:
    golden, saved = case("d_retrieval_train"), arrays("d_retrieval_train")
    model = fresh("retrieval", num_frames=8)
    result = model(here(batch_of(golden)))
    for name, theirs in (("vtc", "itc_loss"), ("vtm", "itm_loss")):
        yield output(name, result.losses[name].item(), golden[theirs])
    yield output("total", result.total.item(), golden["loss"])
    yield output("VTM logits", result.logits["vtm"].detach(), saved["itm_scores"])
    yield exact("VTM labels", result.targets["vtm"].tolist(), saved["itm_labels"].tolist())
    result.total.backward()
    yield from gradients(model, case("d_retrieval_train_grads"), golden["total_grad_norm"])


# --- e: question answering --------------------------------------------------------------------------------


def question_answering(name: str, train: bool = True) -> Differences:
    golden, saved = case(name), arrays(name)
    checkpointing = "official" if golden.get("gradient_checkpointing") else "none"
    frames = golden["model_num_frm"]
    model = fresh("qa", num_frames=frames, num_answers=golden["num_labels"], gradient_checkpointing=checkpointing)
    with torch.set_grad_enabled(train):
        result = model(here(batch_of(golden)))
    yield output("logits", result.logits["qa"].detach(), saved["logits"])
    yield output("loss", result.losses["qa"].item(), golden["loss"])
    if train:
        result.total.backward()
        yield from gradients(model, case(f"{name}_grads"), golden["total_grad_norm"])


# --- f: pre-training --------------------------------------------------------------------------------------


def pretraining(name: str, train: bool) -> Differences:
    golden, saved, batch = case(name), arrays(name), here(batch_of(case(name)))
    model = fresh("pretrain", num_frames=4, num_entities=1000)
    model.pem = PEM(ignore="argmax_zero")
    prompts, kept = model.prompter.video_prompt_feat, model.prompter.video_prompt_feat[:2].clone()
    if "video_prompt_feat_row0_row1" in saved:
        prompts[:2] = torch.from_numpy(saved["video_prompt_feat_row0_row1"])
    try:
        if train:
            model(batch).total.backward()
            yield from gradients(model, case(f"{name}_grads"), golden["total_grad_norm"])
        else:
            with torch.no_grad():
                yield from _pretraining_outputs(model, batch, golden, saved)
    finally:
        prompts[:2] = kept


def _pretraining_outputs(model: Alpro, batch: Any, golden: dict[str, Any], saved: dict[str, np.ndarray]) -> Differences:
    seen: dict[str, Tensor] = {}
    hooks = [
        encoder.register_forward_hook(lambda module, inputs, tokens, name=name: seen.__setitem__(name, tokens))
        for name, encoder in (("clip", model.visual_encoder), ("crop", model.prompter.visual_encoder))
    ]
    result = model(batch)
    for hook in hooks:
        hook.remove()
    for ours, theirs in (("vtc", "itc"), ("vtm", "itm"), ("mlm", "mlm"), ("pem", "mpm")):
        yield output(ours, result.losses[ours], golden[f"{theirs}_loss"])
    yield output("total", result.total, golden["loss"])

    yield output("VTM logits", result.logits["vtm"], saved["itm_scores"])
    yield exact("VTM labels", result.targets["vtm"].tolist(), saved["itm_labels"].tolist())

    yield output("MLM logits at labels", result.logits["mlm"][:, ::61], saved["mlm_scores_at_labels"])
    fused = model.fuse(model.encode_text(batch.mlm_input_ids, batch.attention_mask), batch.attention_mask, seen["clip"])
    scores = model.text_encoder.cls(fused[:, : batch.input_ids.shape[1]])
    yield output("MLM logits", scores[:, ::5, ::1009], saved["mlm_scores"])
    yield from statistics("MLM logits", scores, golden["mlm_scores"])

    crop = model.prompter.video_feature(seen["crop"])
    prompts = model.prompter.image_prompt_feat if batch.media == "image" else model.prompter.video_prompt_feat
    cosine, labels = crop @ prompts.T, result.targets["pem"]
    yield output("crop's feature", crop, saved["crop_feat"])
    yield output("prompter's logits", (cosine / model.prompter.temp)[:, ::10], saved["prompter_logits"])
    yield output("soft labels", labels[:, ::10], saved["soft_labels"])
    yield output("soft labels' sums", labels.sum(1), golden["soft_labels_sum"])
    yield output("largest probability", labels.amax(1), golden["max_softmax"])
    yield output("largest cosine", cosine.amax(1), golden["max_cosine"])
    yield output("largest logit", cosine.amax(1) / model.prompter.temp, golden["max_logit"])
    yield exact("likeliest entity", labels.argmax(1).tolist(), golden["argmax_entity"])

    logits = result.logits["pem"]
    per_sample = torch.stack([pem.pem_loss(logits[[i]], labels[[i]], here(torch.tensor([True]))) for i in range(len(logits))])
    yield output("PEM logits", logits, saved["mpm_logits"])
    yield from statistics("PEM logits", logits, golden["mpm_logits"])
    yield output("PEM per sample", per_sample, saved["mpm_per_sample_ce"])
    official, paper = pem.keep_mask(labels, "argmax_zero", 0.2), pem.keep_mask(labels, "max_probability", 0.2)
    yield exact("ignored by the released rule", (~official).tolist(), golden["ignore_official"])
    yield exact("ignored by the paper's rule", (~paper).tolist(), golden["ignore_rule_max_softmax_lt_0p2"])
    yield output("PEM without ignoring", pem.pem_loss(logits, labels, here(torch.ones(2).bool())), golden["mpm_loss_no_ignore"])
    # null: the released code divides 0 by 0 if every crop is ignored; here the loss is 0.
    want = golden["mpm_loss_if_ignore_by_max_softmax"] or 0.0
    yield output("PEM by the paper's rule", pem.pem_loss(logits, labels, paper), want)


def soft_labels() -> Differences:
    golden = case("f_soft_label_unit")
    labels = pem.soft_labels(torch.tensor(golden["logits"]))
    yield output("soft labels", labels, golden["soft_labels"])
    yield output("largest probability", labels.amax(1), golden["max_softmax"])
    yield exact("likeliest entity", labels.argmax(1).tolist(), golden["argmax"])
    yield exact(
        "ignored by the released rule", (~pem.keep_mask(labels, "argmax_zero", 0.2)).tolist(), golden["ignore_official"]
    )
    paper = (~pem.keep_mask(labels, "max_probability", 0.2)).tolist()
    yield exact("ignored by the paper's rule", paper, golden["ignore_rule_max_softmax_lt_0p2"])


def all_ignored() -> Differences:
    """The released code gives NaN; here loss and gradient are zero."""
    yield exact("the released code's loss", case("f_pretrain_all_ignored")["mpm_loss_when_all_ignored"], "nan")
    logits = torch.randn(2, 5, requires_grad=True)
    loss = pem.pem_loss(logits, torch.full((2, 5), 0.2), torch.zeros(2).bool())
    loss.backward()
    yield exact("loss", loss.item(), 0.0)
    yield exact("gradient", logits.grad.abs().max().item(), 0.0)


# --- g, h: prompter, and VTC over two processes -----------------------------------------------------------


def prompts() -> Differences:
    golden, saved = case("g_prompts"), arrays("g_prompts")
    model = fresh("prompter", num_frames=4, num_entities=5)
    for media in ("video", "image"):
        want = golden[media]
        yield exact(f"{media} templates", list(TEMPLATES[media]), want["templates"])
        yield exact(f"{media} prompts", entity_prompts(golden["entities"], TEMPLATES[media]), want["prompts"])
        features = model.prompt_features(torch.tensor(want["input_ids"]), torch.tensor(want["attention_mask"]), 5, 16)
        yield output(f"{media} features", features, saved[f"{media}_prompt_feat"])
        yield output(f"{media} norms", features.norm(dim=1), golden["row_l2_norms"][media])


def prompter_training() -> Differences:
    golden, saved, batch = case("g_prompter"), arrays("g_prompter"), here(batch_of(case("g_prompter")))
    model = fresh("prompter", num_frames=4, num_entities=5)
    result = model(batch)
    yield output("vtc", result.losses["vtc"].item(), golden["itc_loss"])
    v2t = result.logits["vtc"].detach()
    yield output("video to text", v2t.log_softmax(1), saved["i2t_scores"])
    yield output("text to video", v2t.T.log_softmax(1), saved["t2i_scores"])
    yield exact("targets", result.targets["vtc"].tolist(), saved["itc_labels"].tolist())
    result.total.backward()
    yield from gradients(model, case("g_prompter_grads"), golden["total_grad_norm"])


def two_processes(scheme: str) -> Differences:
    """Compare VTC of one process with 4 pairs, and of two with 2 each, whose gather sums or averages gradients."""
    golden, model = case("h_horovod_itc"), fresh("prompter", num_frames=2, num_entities=5)
    batch = here(batch_of(golden))
    v = model.video_feature(model.encode_video(batch.pixels))
    t = model.text_feature(model.encode_text(batch.input_ids, batch.attention_mask))
    if scheme == "single":
        loss = vtc_loss(v, t, v, t, 0, model.temp)[0]
        yield output("loss", loss.item(), golden["loss_single_process_B4"])
    else:
        all_v, all_t = (v, t) if scheme == "hvd_sum" else ((x + x.detach()) / 2 for x in (v, t))
        ranks = [vtc_loss(v[i : i + 2], t[i : i + 2], all_v, all_t, i, model.temp)[0] for i in (0, 2)]
        loss = torch.stack(ranks).mean()
        yield output("each process's loss", torch.stack(ranks).detach(), golden["loss_per_rank_2proc_B2"])
        yield output("mean loss", loss.item(), golden["mean_of_rank_losses"])
    loss.backward()
    totals = {"single": "total_norm_b", "hvd_sum": "total_norm_a", "hvd_avg": "total_norm_a"}
    total = golden["comparison"]["avg_vs_single" if scheme == "hvd_avg" else "sum_vs_single"][totals[scheme]]
    want = {"grad_l2_norm": golden["grad_l2_norm"][scheme], "grad_probe_dot": golden["grad_probe_dot"].get(scheme, {})}
    yield from gradients(model, want, total)


# --- pixels, names ----------------------------------------------------------------------------------------


def pixel_normalisation() -> Differences:
    """Compare normalised pixels; a batch with no value over 1 is divided by 255 here, but not in the released code."""
    golden = case("l_image_norm")
    grey = torch.tensor(golden["input"], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    yield output("normalised", normalize(grey)[..., 0, 0], golden["output_per_frame_rgb"])
    rows = dict(zip(golden["input"], golden["output_per_frame_rgb"], strict=True))
    undivided = [rows[255 if level else 0] for level in golden["dark_input"]]
    yield output("the released code reads 1 as 255 in a dark batch", undivided, golden["dark_output"])
    dark = torch.tensor(golden["dark_input"], dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    yield output("a dark batch, divided", normalize(dark)[..., 0, 0], [rows[level] for level in golden["dark_input"]])


def manifest(name: str) -> Differences:
    model = build_model(seed=None, **MANIFESTS[name])
    want, info = case(f"state_dict_manifest_{name}"), case(f"state_dict_info_{name}")
    state = model.state_dict()
    got = {key: [list(tensor.shape), str(tensor.dtype).removeprefix("torch.")] for key, tensor in state.items()}
    yield exact("names, shapes and types", got, want)
    yield exact("order of the names", list(got), list(want))
    yield exact("parameters", sum(p.numel() for p in model.parameters()), info["n_parameters"])
    yield exact("keys", len(state), info["n_keys"])
    yield exact("buffers", [key for key, _ in model.named_buffers() if key in state], info["buffers"])
    groups: dict[int, list[str]] = {}
    for key, parameter in model.named_parameters(remove_duplicate=False):
        groups.setdefault(id(parameter), []).append(key)
    shared = sorted(sorted(group) for group in groups.values() if len(group) > 1)
    yield exact("tied", shared, sorted(sorted(group) for group in info["tied"]))
    norms = {f"{key}.weight" for key, module in model.named_modules() if isinstance(module, nn.LayerNorm)}
    yield exact("LayerNorms", norms, set(info["layernorm_weights"]))


def _cases() -> dict[str, Case]:
    def of(compare: Callable[..., Differences], *arguments: Any, slow: bool = False) -> Case:
        return Case(lambda: compare(*arguments), slow)

    cases = {f"state_dict_{name}": of(manifest, name) for name in MANIFESTS}
    for name in case("a_timesformer")["cases"]:
        cases[f"a_timesformer_{name}"] = of(video_encoder, name, slow=name not in ("T2", "T4"))
    for name in case("a_resize")["cases"]:
        cases[f"a_resize_{name}"] = of(resized_encoder, name, slow=True)
    cases["a_resize_runtime"] = of(runtime_interpolation, slow=True)
    cases["b_text_encoder"] = of(text_encoder)
    cases["c_retrieval_inference"] = of(retrieval_inference, "c_retrieval_inference")
    cases["c_retrieval_inference_vid1"] = of(retrieval_inference, "c_retrieval_inference_vid1", slow=True)
    cases["d_retrieval_train"] = of(retrieval_training, slow=True)
    cases["e_qa_T4"] = of(question_answering, "e_qa_T4", slow=True)
    cases["e_qa_T4_gradckpt"] = of(question_answering, "e_qa_T4_gradckpt", slow=True)
    cases["e_qa_T16"] = of(question_answering, "e_qa_T16", False, slow=True)
    for name in ("f_pretrain_video", "f_pretrain_img", "f_pretrain_video_ignore"):
        cases[name] = of(pretraining, name, False, slow=name != "f_pretrain_video")
        cases[f"{name}_grads"] = of(pretraining, name, True, slow=True)
    cases["f_soft_label_unit"] = of(soft_labels)
    cases["f_pretrain_all_ignored"] = of(all_ignored)
    cases["g_prompts"] = of(prompts)
    cases["g_prompter"] = of(prompter_training, slow=True)
    for scheme in ("single", "hvd_sum", "hvd_avg"):
        cases[f"h_horovod_itc_{scheme}"] = of(two_processes, scheme, slow=True)
    cases["l_image_norm"] = of(pixel_normalisation)
    return cases


CASES = _cases()

# Goldens of integers, pixels and formulas: the tests that compare them exactly, by the golden's name.
TESTED: dict[str, tuple[str, ...]] = {
    "i_adamw": (
        "tests/training/test_optim.py::test_five_steps_are_the_released_codes",
        "tests/training/test_optim.py::test_epsilon_is_added_before_the_bias_correction",
    ),
    "i_lr_schedule": ("tests/training/test_optim.py::test_learning_rate_equals_the_released_codes",),
    "j_frame_sampling": (
        "tests/data/media/test_frames.py::test_uniform_floor_is_the_released_rule",
        "tests/data/media/test_frames.py::test_drawn_frames_repeat_the_released_draws",
    ),
    "k_qa_metrics": ("tests/evaluation/test_metrics.py::test_k_qa_metrics",),
    "k_retrieval_metrics": ("tests/evaluation/test_metrics.py::test_k_retrieval_metrics_official",),
    "l_decode": ("tests/data/media/test_read.py::test_decoding_equals_the_released_pixels",),
    "l_mlm_masking": ("tests/data/batches/test_masking.py::test_masking_repeats_the_released_draws",),
    "l_randaug": (
        "tests/data/batches/test_augment.py::test_each_operation_equals_the_released_pixels",
        "tests/data/batches/test_augment.py::test_two_operations_on_a_clip_equal_the_released_results",
    ),
    "l_random_erase": ("tests/data/batches/test_masking.py::test_crop_boxes_repeat_the_released_draws",),
}


def worst(name: str, device: torch.device | str = "cpu", precision: str = "fp32") -> tuple[Difference, list[Difference]]:
    """Return the difference that is largest relative to its tolerance, and all differences."""
    global _device
    _device = torch.device(device)
    with autocast(_device, precision):
        differences = [replace(d, error=math.inf) if math.isnan(d.error) else d for d in CASES[name].compare()]
    return max(differences, key=lambda d: d.error / d.tolerance if d.tolerance else d.error), differences
