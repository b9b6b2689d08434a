"""Data sets, the sampler, and randomness that depends on nothing but the place in training."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from tests.engine.helpers import Stripes
from visionattn.engine import data
from visionattn.engine.data import Digits, EpochSampler, ImageFolder
from visionattn.engine.seeding import SampleKey, mix_seed

AUGMENT = {"input_size": 32, "is_training": True, "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.5}


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "validation"):
        for number, name in enumerate(("class2", "class10", "class1")):
            for i in range(2):
                path = tmp_path / split / name / "deeper" / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4), (number * 10, 0, 0)).save(path)
    return tmp_path


def test_digits_split_is_fixed():
    from sklearn.datasets import load_digits

    train, val = Digits("train"), Digits("val")
    assert (len(train), len(val)) == (1198, 599)
    assert val.labels == load_digits().target[2::3].tolist()
    assert np.asarray(Digits("val", size=8).read(0)).max() == 255
    assert train.read(0).size == (32, 32)
    assert train.read(0).mode == "RGB"


def test_image_folder(folder):
    train, val = ImageFolder(folder), ImageFolder(folder, "val")
    assert train.classes == val.classes == ("class1", "class2", "class10")
    assert train.labels == [0, 0, 1, 1, 2, 2]
    assert val.metainfo == {"classes": val.classes}
    assert np.asarray(train.read(0))[0, 0, 0] == 20


def test_labels_of_a_partial_validation_split(folder):
    for path in sorted((folder / "validation" / "class1").rglob("*.png")):
        path.unlink()
    (folder / "validation" / "class1" / "deeper").rmdir()
    (folder / "validation" / "class1").rmdir()
    assert ImageFolder(folder, "val").labels == [1, 1, 2, 2]


def test_unreadable_images_are_left_out_and_counted(folder, caplog, monkeypatch):
    (folder / "train" / "class1" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    (folder / "train" / "class1" / "empty.png").touch()
    messages = []
    monkeypatch.setattr(data, "print_log", lambda text, *_: messages.append(text))
    assert len(ImageFolder(folder, unreadable="skip")) == 6
    assert "2 of 8 images are unreadable" in messages[0]
    assert "broken.png" in messages[0]
    logging.disable(logging.NOTSET)


def share(size, rank, world_size, **options):
    sampler = EpochSampler(range(size), **options)
    sampler.rank, sampler.world_size = rank, world_size
    group = options.get("group", 1)
    sampler.length = -(-size // world_size) if group == 1 else size // world_size // group * group
    return sampler


@pytest.mark.parametrize(("size", "world_size", "group"), [(48, 2, 4), (50, 2, 4), (17, 3, 2)])
def test_ranks_share_the_global_batches(size, world_size, group):
    options = {"seed": 1, "shuffle": True}
    whole = list(share(size, 0, 1, group=group * world_size, **options))
    parts = [list(share(size, r, world_size, group=group, **options)) for r in range(world_size)]
    for batch in range(len(whole) // (group * world_size)):
        together = {key for part in parts for key in part[batch * group : (batch + 1) * group]}
        assert together == set(whole[batch * group * world_size : (batch + 1) * group * world_size])


def test_repeated_augmentation():
    first, second = (list(share(24, rank, 2, seed=1, shuffle=True, group=3, repeats=3)) for rank in range(2))
    together = [key for pair in zip(first, second) for key in pair]
    assert len(together) == 24
    assert len({key.index for key in together}) == 8
    assert len({key.seed for key in together}) == 24
    for i in range(0, 24, 3):
        assert len({key.index for key in together[i : i + 3]}) == 1


def test_sampler_can_start_anywhere():
    sampler = EpochSampler(range(40), seed=2, shuffle=True, group=4)
    sampler.epoch = 3
    whole = list(sampler)
    sampler.start = 12
    assert list(sampler) == whole[12:]
    assert len(sampler) == 40
    sampler.epoch, sampler.start = 4, 0
    assert [key.index for key in sampler] != [key.index for key in whole]


def test_padding_is_marked():
    keys = [key for rank in range(3) for key in share(10, rank, 3)]
    assert sorted(key.index for key in keys if not key.padding) == list(range(10))
    assert sum(key.padding for key in keys) == 2
    assert Stripes(10)[SampleKey(3, padding=True)]["data_samples"] == -1


@pytest.mark.parametrize("workers", [0, 2])
def test_augmentation_does_not_depend_on_workers(workers):
    dataset = Stripes(16, AUGMENT)
    torch.manual_seed(workers)
    loader = DataLoader(dataset, 4, sampler=EpochSampler(dataset, seed=5, shuffle=True, group=4), num_workers=workers)
    images = torch.cat([batch["inputs"] for batch in loader])
    seeds = [key.seed for key in loader.sampler]
    again = torch.stack([dataset[key]["inputs"] for key in loader.sampler])
    assert torch.equal(images, again)
    assert len(set(seeds)) == 16


def test_mixed_seeds_are_spread():
    seeds = {mix_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900
    assert mix_seed(1, 2) == mix_seed(1, 2) != mix_seed(2, 1)
    assert 0.4 < np.mean([seed > 2**62 for seed in seeds]) < 0.6
