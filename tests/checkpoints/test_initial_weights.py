"""Initial weights of a training: random, from ImageNet's ViT and BERT, from Kinetics, or from a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from transformers import BertForMaskedLM, BertModel

from alpro.checkpoints.files import save_checkpoint
from alpro.checkpoints.initial_weights import InitSpec, init_weights, load_start, read_spec
from alpro.errors import CheckpointError
from alpro.models.bert import bert_config
from alpro.models.timesformer import resize_grid

INIT = Path(__file__).parents[2] / "recipes/init"


@pytest.fixture
def vit(small, tmp_path) -> tuple[str, VisionTransformer]:
    c = small("retrieval").config
    model = VisionTransformer(48, c.patch_size, embed_dim=c.width, depth=c.vision_layers, num_heads=c.heads, mlp_ratio=2)
    torch.nn.init.normal_(model.pos_embed)
    torch.save(model.state_dict(), tmp_path / "vit.pth")
    return str(tmp_path / "vit.pth"), model


@pytest.mark.parametrize("task", ["prompter", "pretrain", "retrieval", "qa"])
def test_seed_initialises_all_weights_reproducibly(small, task):
    one, two, other = small(task, seed=7), small(task, seed=7), small(task, seed=8)
    for key, tensor in one.state_dict().items():
        assert tensor.equal(two.state_dict()[key]) and tensor.float().isfinite().all(), key
    assert not one.vision_proj.weight.equal(other.vision_proj.weight)
    for parameter in one.parameters():
        parameter.data.fill_(float("nan"))
    init_weights(one, read_spec(INIT / "scratch.yaml"), 7)
    prompts = ("video_prompt_feat", "image_prompt_feat")
    assert all(t.equal(two.state_dict()[k]) for k, t in one.state_dict().items() if not k.endswith(prompts))


def test_scratch_lets_the_temporal_path_learn(small, batch):
    model = small("retrieval").train()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch(), torch.Generator().manual_seed(0)).total.backward()
        optimizer.step()
    block = model.visual_encoder.model.blocks[0]
    for parameter in (block.temporal_fc.weight, block.temporal_attn.qkv.weight, model.visual_encoder.model.time_embed):
        assert parameter.grad.abs().max() > 0


def test_video_encoder_from_a_vit_matches_it_on_each_frame(small, vit):
    path, source = vit
    model = small("retrieval")
    (report,) = init_weights(model, InitSpec(vision=path), seed=1)
    encoder = model.visual_encoder.model
    block = encoder.blocks[1]
    assert block.attn.qkv.weight.equal(source.blocks[1].attn.qkv.weight)
    assert block.temporal_attn.qkv.weight.equal(source.blocks[1].attn.qkv.weight)
    assert block.temporal_norm1.weight.equal(source.blocks[1].norm1.weight)
    assert not block.temporal_fc.weight.any() and not encoder.time_embed.any()
    assert "pos_embed: 1x37x48 to 1x17x48" in str(report)
    assert "visual_encoder.model.head (2)" in str(report)
    assert encoder.pos_embed[:, 1:].equal(resize_grid(source.pos_embed[:, 1:], (6, 6), (4, 4), "bicubic"))
    # A clip of one repeated frame gives the image's features.
    frame = torch.randn(1, 1, 3, 32, 32)
    clip = model.eval().encode_video(frame.expand(1, 3, -1, -1, -1))
    torch.testing.assert_close(clip, encoder(frame), rtol=1e-4, atol=1e-5)


def test_kinetics_timesformer_keeps_its_temporal_weights(small, tmp_path):
    source, target = small("retrieval", num_frames=2, seed=3), small("retrieval", seed=4)
    inner = {f"model.{key}": tensor for key, tensor in source.visual_encoder.model.state_dict().items()}
    inner["model.time_embed"] = torch.randn(1, 2, 48)
    inner["model.head.weight"], inner["model.head.bias"] = torch.zeros(600, 48), torch.zeros(600)
    torch.save({"epoch": 1, "model_state": inner, "cfg": "TRAIN:"}, tmp_path / "k600.pyth")
    init_weights(target, InitSpec(vision=str(tmp_path / "k600.pyth")), seed=4)
    block, original = target.visual_encoder.model.blocks[1], source.visual_encoder.model.blocks[1]
    assert block.temporal_attn.qkv.weight.equal(original.temporal_attn.qkv.weight)
    assert not block.temporal_attn.qkv.weight.equal(original.attn.qkv.weight)
    assert target.visual_encoder.model.time_embed.equal(inner["model.time_embed"][:, [0, 0, 1]])


@pytest.mark.parametrize("task", ["retrieval", "qa"])
def test_bert_directory_initialises_both_encoders(small, tmp_path, task):
    model = small(task)
    bert = BertForMaskedLM(bert_config(model.config))
    bert.save_pretrained(tmp_path / "bert")
    (report,) = init_weights(model, InitSpec(text=str(tmp_path / "bert")), seed=1)
    assert model.bert.layers[3].output.dense.weight.equal(bert.bert.encoder.layer[3].output.dense.weight)
    if task == "retrieval":
        assert model.text_encoder.cls.predictions.transform.dense.weight.equal(bert.cls.predictions.transform.dense.weight)
        assert model.text_encoder.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    assert "tensors loaded" in str(report)


def test_old_and_headless_bert_files_are_loaded(small, tmp_path):
    model = small("retrieval")
    bert = BertModel(bert_config(model.config))
    state = {
        k.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): v
        for k, v in bert.state_dict().items()
    }
    (tmp_path / "old").mkdir()
    torch.save(state, tmp_path / "old/pytorch_model.bin")
    (report,) = init_weights(model, InitSpec(text=str(tmp_path / "old")), seed=1)
    assert model.bert.layers[0].output.LayerNorm.weight.equal(bert.encoder.layer[0].output.LayerNorm.weight)
    assert "text_encoder.cls" in str(report) and "text_encoder.bert (2)" in str(
        report
    )  # it has no head, and its pooler is not used


def test_offline_error_names_the_directory_option(small, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="ext/bert-base-uncased") as caught:
        init_weights(small("retrieval"), InitSpec(text="bert-base-uncased-nobody-has"))
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"model\.safetensors") as caught:
        init_weights(small("retrieval"), InitSpec(vision="vit_base_patch16_224.orig_in21k_ft_in1k"))
    assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="Unknown model"):
        init_weights(small("retrieval"), InitSpec(vision="vit_nonsense"))


def test_bert_is_found_in_the_released_codes_folder(small, monkeypatch, tmp_path):
    model = small("retrieval")
    BertForMaskedLM(bert_config(model.config)).save_pretrained(tmp_path / "ext/bert-base-uncased")
    monkeypatch.chdir(tmp_path)
    assert init_weights(model, read_spec(INIT / "imagenet.yaml").model_copy(update={"vision": "scratch"}))


def test_position_embedding_is_resized_by_init_resize(small, tmp_path):
    """Over the flattened patches as in the released code (golden a_resize has the rows), or in two dimensions."""
    source = small("pretrain", seed=1)
    torch.nn.init.normal_(source.visual_encoder.model.pos_embed)
    save_checkpoint(tmp_path / "pretrain", source, {})
    larger = small("retrieval").config.model_copy(update={"image_size": 48})
    places = source.visual_encoder.model.pos_embed[:, 1:]
    resized = {}
    for mode in ("flat_nearest", "bicubic"):
        target = small("retrieval", config=larger)
        (report,) = load_start(target, tmp_path / "pretrain", seed=1, resize=mode)
        resized[mode] = target.visual_encoder.model.pos_embed[:, 1:]
        assert "pos_embed: 1x17x48 to 1x37x48" in str(report)
    assert resized["flat_nearest"].equal(places[:, [n * 16 // 36 for n in range(36)]])
    assert resized["bicubic"].equal(resize_grid(places, (4, 4), (6, 6), "bicubic"))


def test_encoders_of_other_sizes_are_refused(small, vit, tmp_path):
    wide = small("retrieval", config=small("retrieval").config.model_copy(update={"width": 64}))
    with pytest.raises(CheckpointError, match="does not fit the video encoder"):
        init_weights(wide, InitSpec(vision=vit[0]))
    BertForMaskedLM(bert_config(wide.config.model_copy(update={"vocab_size": 90}))).save_pretrained(tmp_path / "bert")
    with pytest.raises(CheckpointError, match="vocabulary differs"):
        init_weights(wide, InitSpec(text=str(tmp_path / "bert")))


def test_spec_with_unknown_keys_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text("vison: scratch\n")
    with pytest.raises(CheckpointError, match="may contain only the keys `vision` and `text`"):
        read_spec(tmp_path / "x.yaml")
    with pytest.raises(CheckpointError, match="not found"):
        read_spec(tmp_path / "y.yaml")


def test_start_accepts_a_spec_or_a_checkpoint(small, tmp_path):
    source, target = small("pretrain", seed=1), small("qa", seed=2)
    save_checkpoint(tmp_path / "pretrain", source, {})
    (report,) = load_start(target, tmp_path / "pretrain", seed=5)
    assert target.vision_proj.weight.equal(source.vision_proj.weight)
    assert target.classifier[0].weight.equal(
        small("qa", seed=5).classifier[0].weight
    )  # weights missing from the file come from the seed
    assert "classifier" in str(report)
    assert load_start(target, INIT / "scratch.yaml", seed=5) == []
    assert target.vision_proj.weight.equal(small("qa", seed=5).vision_proj.weight)
