"""Data sets and the sampler for classification."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import print_log
from mmengine.registry import DATA_SAMPLERS, DATASETS
from PIL import Image
from timm.data import create_transform
from timm.utils.misc import natural_key
from torch.utils.data import Dataset, Sampler

from visionattn.engine.images import IMAGE_SUFFIXES, ImageError, load_image
from visionattn.engine.seeding import SampleKey, mix_seed, seed_cpu

__all__ = ["Digits", "EpochSampler", "ImageFolder"]

SPLIT_FOLDERS = {"train": ("train", "training"), "val": ("val", "validation", "valid", "eval", "evaluation", "test")}
IGNORED_LABEL = -1  # of samples that only fill up a batch


class ClassificationDataset(Dataset):
    """Images with one label each; a subclass sets `classes` and `labels` and reads one image.

    An item is `dict(inputs=float tensor [3, height, width], data_samples=int label)`.

    Args:
        transform: Arguments of `timm.data.create_transform`; None leaves the images as Pillow images.
    """

    classes: Tuple[str, ...]
    labels: List[int]

    def __init__(self, transform: Optional[Mapping[str, Any]] = None):
        self.transform = None if transform is None else create_transform(**transform)

    def read(self, index: int) -> Image.Image:
        """Returns image `index` as an RGB Pillow image."""
        raise NotImplementedError

    @property
    def metainfo(self) -> Dict[str, Any]:
        """What mmengine passes on to metrics and checkpoints."""
        return {"classes": self.classes}

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: Union[int, SampleKey]) -> Dict[str, Any]:
        if not isinstance(key, SampleKey):
            key = SampleKey(key)
        image = self.read(key.index)
        if key.seed is not None:
            seed_cpu(key.seed)
        label = IGNORED_LABEL if key.padding else self.labels[key.index]
        return {"inputs": image if self.transform is None else self.transform(image), "data_samples": label}


@DATASETS.register_module()
class ImageFolder(ClassificationDataset):
    """`root/{train,val}/<class>/**/<image>`, the ImageNet layout.

    Classes are the training split's folder names in natural order, for both splits, so labels always agree.

    Args:
        root: Folder that holds the splits.
        split: "train" or "val"; timm's synonyms (`validation`, `eval`, ...) are accepted as folder names.
        transform: Arguments of `timm.data.create_transform`.
        unreadable: What to do about corrupt files: "raise" stops when one is met; "skip" decodes every file once at the
            start (some milliseconds each, in threads), leaves damaged ones out and logs their number and names.

    Raises:
        FileNotFoundError: a folder of the layout is missing; the message names it.
        ImageError: an empty file at the start, or a corrupt one when it is met, with `unreadable="raise"`.
        ValueError: a class of `val` that `train` lacks, or an argument out of range.
    """

    def __init__(
        self,
        root: Union[str, os.PathLike],
        split: str = "train",
        transform: Optional[Mapping[str, Any]] = None,
        unreadable: str = "raise",
    ):
        super().__init__(transform)
        if split not in SPLIT_FOLDERS:
            raise ValueError(f"split must be one of {', '.join(SPLIT_FOLDERS)}, got {split!r}")
        if unreadable not in ("raise", "skip"):
            raise ValueError(f"unreadable must be raise or skip, got {unreadable!r}")
        root = Path(root)
        folder = split_folder(root, split)
        names = class_folders(folder)
        self.classes = names
        if split != "train" and any((root / name).is_dir() for name in SPLIT_FOLDERS["train"]):
            self.classes = class_folders(split_folder(root, "train"))
            unknown = sorted(set(names) - set(self.classes))
            if unknown:
                raise ValueError(
                    f"{folder} has {len(unknown)} classes that the training split lacks: {', '.join(unknown[:5])}"
                )
        number = {name: i for i, name in enumerate(self.classes)}
        samples = [(path, size, number[name]) for name in names for path, size in image_files(folder / name)]
        if not samples:
            raise FileNotFoundError(f"no images ({', '.join(IMAGE_SUFFIXES)}) in the class folders of {folder}")
        if unreadable == "skip":
            samples = readable(samples)
        empty = [path for path, size, _ in samples if size == 0]
        if empty:
            raise ImageError(
                f"{len(empty)} image files are empty (0 bytes), such as {empty[0]}; unreadable='skip' leaves them out"
            )
        self.paths = [path for path, _, _ in samples]
        self.labels = [label for _, _, label in samples]

    def read(self, index: int) -> Image.Image:
        return load_image(self.paths[index])


def split_folder(root: Path, split: str) -> Path:
    """The folder of a split, under whichever of its usual names is there."""
    if not root.is_dir():
        raise FileNotFoundError(
            f"data root {root} does not exist; expected {root}/train/<class>/<image> and {root}/val"
        )
    for name in SPLIT_FOLDERS[split]:
        if (root / name).is_dir():
            return root / name
    raise FileNotFoundError(
        f"data root {root} has no folder {root / split} (nor {', '.join(SPLIT_FOLDERS[split][1:])})"
    )


def class_folders(folder: Path) -> Tuple[str, ...]:
    """Names of the class folders in natural order."""
    names = tuple(sorted((entry.name for entry in os.scandir(folder) if entry.is_dir()), key=natural_key))
    if not names:
        raise FileNotFoundError(f"{folder} has no class folders; expected {folder}/<class>/<image>")
    return names


def image_files(folder: Path) -> List[Tuple[str, int]]:
    """Paths and sizes in bytes of all images below a class folder, in natural order."""
    found = []
    for directory, _, files in os.walk(folder, followlinks=True):
        for name in files:
            if name.lower().endswith(IMAGE_SUFFIXES):
                path = os.path.join(directory, name)
                found.append((path, os.path.getsize(path)))
    return sorted(found, key=lambda entry: natural_key(entry[0]))


def readable(samples: List[Tuple[str, int, int]]) -> List[Tuple[str, int, int]]:
    """Drops the samples whose file can't be decoded, and logs how many and which."""

    def problem(sample: Tuple[str, int, int]) -> Optional[str]:
        try:
            load_image(sample[0])
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor() as pool:
        problems = list(pool.map(problem, samples))
    kept = [sample for sample, bad in zip(samples, problems) if bad is None]
    reasons = [bad for bad in problems if bad is not None]
    if reasons:
        shown = "\n  ".join(reasons[:10])
        print_log(f"{len(reasons)} of {len(samples)} images are unreadable and left out:\n  {shown}", "current", 30)
    if not kept:
        raise ImageError(f"none of {len(samples)} images can be read; the first problem: {reasons[0]}")
    return kept


@DATASETS.register_module()
class Digits(ClassificationDataset):
    """scikit-learn's 1,797 scans of handwritten digits, enlarged from 8x8 grey to RGB.

    The split is fixed: samples whose index is 2 modulo 3 are held back for "val", the others are "train".

    Args:
        split: "train" (1,198 images) or "val" (599).
        size: Side in pixels to which the scans are enlarged, bicubic.
        transform: Arguments of `timm.data.create_transform`.

    Raises:
        ValueError: an unknown split or a size below 8.
    """

    classes = tuple(str(digit) for digit in range(10))

    def __init__(self, split: str = "train", size: int = 32, transform: Optional[Mapping[str, Any]] = None):
        from sklearn.datasets import load_digits  # slow to import, and only this data set needs it

        super().__init__(transform)
        if split not in ("train", "val"):
            raise ValueError(f"split must be train or val, got {split!r}")
        if size < 8:
            raise ValueError(f"size must be at least 8, the scans' own, got {size}")
        scans = load_digits()
        held_back = np.arange(len(scans.target)) % 3 == 2
        take = held_back if split == "val" else ~held_back
        self.size = size
        self.scans = np.round(scans.images[take] * (255 / 16)).astype(np.uint8)  # sample values are 0..16
        self.labels = scans.target[take].tolist()

    def read(self, index: int) -> Image.Image:
        return (
            Image.fromarray(self.scans[index]).resize((self.size, self.size), Image.Resampling.BICUBIC).convert("RGB")
        )


@DATA_SAMPLERS.register_module()
class EpochSampler(Sampler[SampleKey]):
    """A rank's share of each epoch, as a pure function of (seed, epoch), startable anywhere in the epoch.

    Sample i of the epoch's order goes to rank `i % world_size`, so the ranks' batches together are one process's
    global batch.

    Args:
        dataset: The data set.
        seed: Of the run; gives the order and every sample's augmentation.
        shuffle: For training: shuffle, and give every sample a seed. Otherwise the data set's order, without seeds.
        group: The share is cut to a multiple of this (samples of a whole optimizer step per rank), so that neither a
            smaller batch nor an unfinished gradient accumulation ends an epoch. 1: the share is filled up by
            `padding` keys so that all ranks get equally many.
        repeats: Repeated augmentation (Hoffer et al., CVPR 2020): an epoch is as long as ever, but takes this many
            differently augmented versions of fewer samples, next to each other in the global batch. Needs `shuffle`.

    Attributes:
        epoch: Set by the training loop before it iterates.
        start: Samples of the share to leave out, when an epoch is resumed in its middle.

    Raises:
        ValueError: a data set too small for one group on each rank, or repeats below 1 or without shuffling.
    """

    def __init__(
        self, dataset: Dataset, seed: Optional[int] = None, shuffle: bool = False, group: int = 1, repeats: int = 1
    ):
        if repeats < 1 or (repeats > 1 and not shuffle):
            raise ValueError(f"repeats must be at least 1, and 1 without shuffle, got {repeats}")
        self.rank, self.world_size = get_dist_info()
        self.repeats = repeats
        self.dataset = dataset
        self.seed = seed or 0
        self.shuffle = shuffle
        self.epoch = 0
        self.start = 0
        size = len(dataset)
        share = -(-size // self.world_size)
        self.length = share if group == 1 else size // self.world_size // group * group
        if self.length == 0:
            raise ValueError(
                f"the data set has {size} samples, but an optimizer step takes {group} on each of {self.world_size} "
                "ranks: lower batch_size or accumulative_counts"
            )

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[SampleKey]:
        size = len(self.dataset)
        order = range(size)
        if self.shuffle:
            generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
            order = torch.randperm(size, generator=generator).tolist()
        for i in range(self.start, self.length):
            position = i * self.world_size + self.rank
            index = order[position % size // self.repeats]
            version = (position % self.repeats,) if self.repeats > 1 else ()
            seed = mix_seed(self.seed, self.epoch, index, *version) if self.shuffle else None
            yield SampleKey(index, seed, padding=position >= size)
