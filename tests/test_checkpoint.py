"""Conversion of released weights, and checkpoint files that are not what they should be."""

import argparse
import pickle
from collections import OrderedDict

import pytest
import safetensors.torch
import timm
import torch
import torch.nn.functional as F

import visionattn
from tests.parity import fill, load_fixture, official_state_dict

VARIANTS = ("nat_mini", "dinat_s_tiny", "nat_isotropic_small", "vitrpb_small")


@pytest.fixture(scope="module")
def nat_mini():
    return official_state_dict(load_fixture("dinat", "nat_mini"))


@pytest.fixture
def model():
    return timm.create_model("nat_mini", device="meta")


def to_official(weights):
    """Our state dict of a `nat` model with the papers' names: the inverse of the conversion."""
    out = {}
    for name, value in weights.items():
        parts = name.split(".")
        if parts[0] == "stem":
            parts[0] = "patch_embed"
        elif parts[0] == "stages" and parts[2] == "downsample":
            parts[:2] = ["levels", str(int(parts[1]) - 1)]
        elif parts[0] == "stages":
            parts[0] = "levels"
            if parts[-1] == "gamma":
                parts[-2:] = [f"gamma{parts[-2][-1]}"]
        elif parts[:2] == ["head", "fc"]:
            parts = ["head", parts[2]]
        out[".".join(parts)] = value
    return out


def to_port(weights):
    """An official NAT or DiNAT state dict with the names of its Hugging Face port."""
    out = {}
    for name, value in weights.items():
        for old, new in [
            ("patch_embed.proj.", "embeddings.patch_embeddings.projection."),
            ("patch_embed.norm.", "embeddings.norm."),
            ("levels.", "encoder.levels."),
            (".blocks.", ".layers."),
            (".norm1.", ".layernorm_before."),
            (".norm2.", ".layernorm_after."),
            (".attn.rpb", ".attention.self.rpb"),
            (".attn.proj.", ".attention.output.dense."),
            (".mlp.fc1.", ".intermediate.dense."),
            (".mlp.fc2.", ".output.dense."),
        ]:
            name = name.replace(old, new)
        if name.startswith("norm."):
            name = "layernorm." + name[5:]
        name = name.replace("head.", "classifier.") if name.startswith("head.") else f"nat.{name}"
        if ".attn.qkv." in name:
            for part, rows in zip(("query", "key", "value"), value.chunk(3)):
                out[name.replace(".attn.qkv.", f".attention.self.{part}.")] = rows
        elif name.endswith("gamma1"):
            second = weights[name.removeprefix("nat.encoder.").replace(".layers.", ".blocks.")[:-1] + "2"]
            out[name.replace("gamma1", "layer_scale_parameters")] = torch.stack([value, second])
        elif not name.endswith("gamma2"):
            out[name] = value
    return out


@pytest.mark.parametrize("name", VARIANTS)
def test_official_file_loads_strictly(name):
    official = official_state_dict(load_fixture("dinat", name))
    model = timm.create_model(name)
    weights = visionattn.convert_checkpoint(official, model)
    model.load_state_dict(weights, strict=True)
    assert list(weights) == list(model.state_dict())
    again = visionattn.convert_checkpoint(weights, model)
    assert all(again[key] is weights[key] for key in weights)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"state_dict": w},
        lambda w: {"model": w, "epoch": 3},
        lambda w: {"model": {k: torch.zeros_like(v) for k, v in w.items()}, "model_ema": w},
        lambda w: {"state_dict": {k: torch.zeros_like(v) for k, v in w.items()}, "state_dict_ema": w},
        lambda w: {"state_dict": w, "state_dict_ema": None},
        lambda w: {f"module.{k}": v for k, v in w.items()},
        lambda w: {"state_dict": OrderedDict({f"module.backbone.{k}": v for k, v in w.items()}, neck=torch.ones(1))},
        to_port,
    ],
    ids=["state_dict", "model", "model_ema", "state_dict_ema", "no_ema", "module", "detector", "port"],
)
def test_wrappers_and_layouts(wrap, nat_mini, model):
    expected = visionattn.convert_checkpoint(nat_mini, model)
    actual = visionattn.convert_checkpoint(wrap(nat_mini), model)
    assert list(actual) == list(expected)
    assert all(torch.equal(actual[name], expected[name]) for name in expected)


def test_layer_scales_round_trip():
    model = timm.create_model("nat_test", ls_init_value=1e-5)
    ours = {k: torch.from_numpy(fill(k, v.shape)).float() for k, v in model.state_dict().items()}
    for theirs in (to_official(ours), to_port(to_official(ours))):
        back = visionattn.convert_checkpoint(theirs, model)
        assert all(torch.equal(back[name], ours[name]) for name in ours)


def test_bias_tables_of_another_kernel_size_are_resized(nat_mini):
    model = timm.create_model("nat_mini", kernel_size=11, device="meta")
    weights = visionattn.convert_checkpoint(nat_mini, model)
    table = nat_mini["levels.0.blocks.1.attn.rpb"]
    expected = F.interpolate(table[None], (21, 21), mode="bicubic", align_corners=False)[0]
    assert torch.equal(weights["stages.0.blocks.1.attn.rpb"], expected)


def test_legitimate_misfits(nat_mini, caplog):
    model = timm.create_model("nat_mini", num_classes=10)
    weights = visionattn.convert_checkpoint(nat_mini, model)
    assert model.load_state_dict(weights, strict=False).missing_keys == ["head.fc.weight", "head.fc.bias"]
    assert "no place for 2 weights: head.fc.weight" in caplog.text
    model = timm.create_model("nat_mini", num_classes=0)
    model.load_state_dict(visionattn.convert_checkpoint(nat_mini, model), strict=True)
    dense = {k: v for k, v in nat_mini.items() if not k.startswith(("norm.", "head."))}
    dense |= {f"norm{i}.weight": torch.ones(64 * 2**i) for i in range(4)}
    model = timm.create_model("nat_mini")
    missing, unexpected = model.load_state_dict(visionattn.convert_checkpoint(dense, model), strict=False)
    assert missing == ["norm.weight", "norm.bias", "head.fc.weight", "head.fc.bias"]
    assert not unexpected


def test_features_only_model(nat_mini):
    model = timm.create_model("nat_mini", features_only=True, out_indices=(0, 1))
    model.load_state_dict(visionattn.convert_checkpoint(nat_mini, model), strict=True)
    deeper = nat_mini | {k.replace("blocks.0.", "blocks.9."): v for k, v in nat_mini.items()}
    with pytest.raises(ValueError, match="not of this model"):
        visionattn.convert_checkpoint(deeper, model)


def test_pretrained_file(nat_mini, tmp_path):
    path = tmp_path / "official.pth"
    torch.save(nat_mini, path)
    options = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path)))
    model = timm.create_model("nat_mini", **options)
    assert torch.equal(model.stages[1].downsample.norm.weight, nat_mini["levels.0.downsample.norm.weight"])
    small = timm.create_model("nat_m", num_classes=5, in_chans=1, **options)
    expected = nat_mini["patch_embed.proj.0.weight"].sum(1, keepdim=True)
    torch.testing.assert_close(small.stem.proj[0].weight, expected)
    features = timm.create_model("nat_mini", features_only=True, out_indices=(1,), **options)
    assert torch.equal(features.model.stages[0].blocks[0].attn.rpb, nat_mini["levels.0.blocks.0.attn.rpb"])


def _truncated(weights):
    return dict(list(weights.items())[:100])


def _widened(weights):
    return {**weights, "norm.weight": torch.ones(7)}


@pytest.mark.parametrize(
    ("make", "target", "error", "match"),
    [
        (_truncated, "nat_mini", ValueError, r"nat_mini \(253 tensors\): 149 missing: stages.2"),
        (_widened, "nat_mini", ValueError, r"1 of another shape: norm.weight \(7,\) instead of \(512,\)"),
        (dict, "nat_tiny", ValueError, "missing: stages.2.blocks.6.norm1.weight"),
        (dict, "dinat_small", ValueError, "of another shape"),
        (dict, "dinat_s_tiny", ValueError, "not of this model"),
        (dict, "nat_isotropic_small", ValueError, "missing: .*stem"),
        (lambda w: {}, "nat_mini", ValueError, "holds no weights"),
        (lambda w: {"optimizer": {}, "epoch": 1}, "nat_mini", ValueError, "its keys are .*optimizer"),
        (lambda w: list(w.values()), "nat_mini", TypeError, "state_dict must be a dict of tensors, got list"),
        (lambda w: {k: v for k, v in w.items() if k != "head.bias"}, "nat_mini", ValueError, "1 missing: head.fc.bias"),
        (
            lambda w: {k: v for k, v in to_port(w).items() if not k.endswith("key.bias")},
            "nat_mini",
            ValueError,
            "without its key and value",
        ),
    ],
)
def test_wrong_weights(make, target, error, match, nat_mini):
    with pytest.raises(error, match=match):
        visionattn.convert_checkpoint(make(nat_mini), timm.create_model(target, device="meta"))


def test_wrong_model(nat_mini):
    with pytest.raises(TypeError, match="model must be a backbone with a checkpoint filter, got Linear"):
        visionattn.convert_checkpoint(nat_mini, torch.nn.Linear(1, 1))


def test_files(tmp_path):
    weights = {"a": torch.arange(3.0)}
    safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    torch.save({"state_dict": weights, "args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(visionattn.load_checkpoint_file(tmp_path / "a.safetensors")["a"], weights["a"])
    assert torch.equal(visionattn.load_checkpoint_file(str(tmp_path / "a.pth"))["state_dict"]["a"], weights["a"])
    assert torch.equal(visionattn.load_checkpoint_file(tmp_path / "old.pth")["a"], weights["a"])


class Custom:
    pass


def _write_torch(path, content):
    torch.save(content, path)


def _cut(path, keep):
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:keep])


@pytest.mark.parametrize(
    ("name", "write", "match"),
    [
        ("cut.pth", lambda p: _cut(p, 2000), "not a readable checkpoint: it is truncated"),
        ("nearly.pth", lambda p: _cut(p, -10), "not a readable checkpoint: it is truncated"),
        ("empty.pth", lambda p: p.write_bytes(b""), "not a readable checkpoint"),
        ("text.pth", lambda p: p.write_text("<html>not found</html>"), "not a readable checkpoint"),
        ("image.pth", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "not a readable checkpoint"),
        ("pickle.pth", lambda p: p.write_bytes(pickle.dumps({"a": Custom})), "not plain data"),
        ("object.pth", lambda p: _write_torch(p, {"a": Custom()}), "not plain data"),
        ("list.pth", lambda p: _write_torch(p, [torch.zeros(1)]), "holds a list, not a dict"),
        ("tensor.pth", lambda p: _write_torch(p, torch.zeros(1)), "holds a Tensor, not a dict"),
        ("cut.safetensors", lambda p: p.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{"), "not a readable checkpoint"),
        ("text.safetensors", lambda p: p.write_text("hello"), "not a readable checkpoint"),
    ],
)
def test_broken_files(name, write, match, tmp_path):
    write(tmp_path / name)
    with pytest.raises(ValueError, match=match):
        visionattn.load_checkpoint_file(tmp_path / name)


def test_missing_file(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(FileNotFoundError, match="there is no file"):
            visionattn.load_checkpoint_file(path)
