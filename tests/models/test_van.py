"""VAN's parts, ports of its checkpoints, and its options."""

import re

import numpy as np
import pytest
import timm
import torch

import visionattn
from tests.models.recorded_blocks import assert_block_matches, recorded
from tests.parity import FIXTURES, load_fixture, official_state_dict
from visionattn.models import van

LKA = np.load(FIXTURES / "van" / "op_lka.npz")
BLOCK = np.load(FIXTURES / "van" / "op_block.npz")


def within(official, ours):
    """Names within a module, by the checkpoint filter of the whole network."""

    def rename(state):
        renamed = van.checkpoint_filter_fn({official + name: value for name, value in state.items()}, None)
        return {name.removeprefix(ours): value for name, value in renamed.items()}

    return rename


@pytest.mark.parametrize("case", ["a", "b"])
def test_large_kernel_attention(case):
    rename = within("block1.0.attn.spatial_gating_unit.", "stages.0.blocks.0.attn.lka.")
    assert_block_matches(LKA, case, van.LargeKernelAttention(LKA[f"{case}/x"].shape[1]), rename)


def test_block_in_eval_mode():
    block = van.Block(8, mlp_ratio=4).eval()
    assert_block_matches(BLOCK, "eval", block, within("block1.0.", "stages.0.blocks.0."), buffers="buffer")


def test_block_in_training_mode():
    block, rename = van.Block(8, mlp_ratio=4).train(), within("block1.0.", "stages.0.blocks.0.")
    assert_block_matches(BLOCK, "train", block, rename, buffers="buffer_before")
    after = rename(recorded(BLOCK, "train", "buffer_after"))
    for name, value in block.named_buffers():
        if not name.endswith("num_batches_tracked"):
            torch.testing.assert_close(value, after[name], rtol=1e-10, atol=1e-12)


# Official names to those of mmpretrain and of the Hugging Face port.
PORTS = {
    "mmpretrain": (
        (r"^patch_embed(\d)\.proj\.", r"backbone.patch_embed\1.projection."),
        (r"^patch_embed(\d)\.norm\.", r"backbone.patch_embed\1.norm."),
        (r"^block(\d)\.", r"backbone.blocks\1."),
        (r"spatial_gating_unit\.conv0\.", r"spatial_gating_unit.DW_conv."),
        (r"spatial_gating_unit\.conv_spatial\.", r"spatial_gating_unit.DW_D_conv."),
        (r"dwconv\.dwconv\.", r"dwconv."),
        (r"^norm(\d)\.", r"backbone.norm\1."),
        (r"^head\.", r"head.fc."),
    ),
    "transformers": (
        (r"^patch_embed(\d)\.proj\.", lambda m: f"van.encoder.stages.{int(m[1]) - 1}.embeddings.convolution."),
        (r"^patch_embed(\d)\.norm\.", lambda m: f"van.encoder.stages.{int(m[1]) - 1}.embeddings.normalization."),
        (r"^block(\d)\.", lambda m: f"van.encoder.stages.{int(m[1]) - 1}.layers."),
        (r"^norm(\d)\.", lambda m: f"van.encoder.stages.{int(m[1]) - 1}.normalization."),
        (r"\.norm1\.", ".pre_normomalization."),
        (r"\.norm2\.", ".post_normalization."),
        (r"attn\.proj_1\.", "attention.pre_projection.conv."),
        (r"attn\.proj_2\.", "attention.post_projection."),
        (r"attn\.spatial_gating_unit\.conv0\.", "attention.attention_layer.attention.depth_wise."),
        (r"attn\.spatial_gating_unit\.conv_spatial\.", "attention.attention_layer.attention.depth_wise_dilated."),
        (r"attn\.spatial_gating_unit\.conv1\.", "attention.attention_layer.attention.point_wise."),
        (r"mlp\.fc1\.", "mlp.in_dense."),
        (r"mlp\.dwconv\.dwconv\.", "mlp.depth_wise."),
        (r"mlp\.fc2\.", "mlp.out_dense."),
        (r"layer_scale_1$", "attention_scaling.weight"),
        (r"layer_scale_2$", "mlp_scaling.weight"),
        (r"^head\.", "classifier."),
    ),
}


def renamed(name, rules):
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("port", PORTS)
def test_ports(port):
    official = official_state_dict(load_fixture("van", "van_b0"))
    ported = {renamed(name, PORTS[port]): value for name, value in official.items()}
    if port == "transformers":
        ported["van.layernorm.weight"] = torch.ones(256)
    model = timm.create_model("van_b0", device="meta")
    expected = visionattn.convert_checkpoint(official, model)
    converted = visionattn.convert_checkpoint({"state_dict": ported}, model)
    assert {*converted} == {*expected} == {*model.state_dict()}
    assert all(torch.equal(value, expected[name]) for name, value in converted.items())
    again = visionattn.convert_checkpoint(converted, model)
    assert all(again[name] is converted[name] for name in converted)


def test_official_file_through_timm(tmp_path):
    official = official_state_dict(load_fixture("van", "van_b0"))
    torch.save({"state_dict": official, "epoch": 310}, tmp_path / "van_tiny_754.pth.tar")
    overlay = dict(file=str(tmp_path / "van_tiny_754.pth.tar"))
    model = timm.create_model("van_tiny", pretrained=True, pretrained_cfg_overlay=overlay)
    assert torch.equal(model.head.fc.weight, official["head.weight"])


@pytest.mark.parametrize("alias", ["van_tiny", "van_t", "van_small", "van_base", "van_b", "van_large", "van_l"])
def test_aliases(alias):
    variant = {"t": "van_b0", "s": "van_b1", "b": "van_b2", "l": "van_b3"}[alias.removeprefix("van_")[0]]
    assert timm.create_model(alias, device="meta").pretrained_cfg["architecture"] == variant


def test_preprocessing():
    assert timm.get_pretrained_cfg("van_b0").mean == timm.get_pretrained_cfg("van_b3").std == (0.5, 0.5, 0.5)
    assert timm.get_pretrained_cfg("van_b0").crop_pct == 0.9
    assert timm.get_pretrained_cfg("van_b4").mean == (0.485, 0.456, 0.406)
    assert timm.get_pretrained_cfg("van_b6.in22k_ft_in1k_384").crop_mode == "squash"


def test_kernel_sizes_follow_the_rule():
    lka = van.LargeKernelAttention(4, kernel_size=35, dilation=4)
    assert lka.dw.kernel_size == (7, 7)
    assert lka.dw_dilated.kernel_size == (9, 9)
    assert lka(torch.randn(1, 4, 12, 5)).shape == (1, 4, 12, 5)


def test_options_are_used():
    model = timm.create_model("van_test", drop_rate=0.1, proj_drop_rate=0.2, drop_path_rate=0.4, norm_eps=1e-5)
    assert model.head.drop.p == 0.1
    block = model.stages[-1].blocks[-1]
    assert (block.mlp.drop1.p, block.mlp.drop2.p) == (0.2, 0.2)
    assert block.drop_path1.drop_prob == block.drop_path2.drop_prob == pytest.approx(0.4)
    assert {stage.norm.eps for stage in model.stages} == {1e-5}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (dict(embed_dims=(8, 8)), "embed_dims must have one entry per stage"),
        (dict(mlp_ratios=(4,)), "mlp_ratios must have one entry per stage"),
        (dict(kernel_size=2), "kernel_size must be at least dilation"),
        (dict(kernel_size=24), r"kernel_size / dilation, rounded up, must be odd, got 24 / 3"),
    ],
)
def test_wrong_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        timm.create_model("van_test", **arguments)
