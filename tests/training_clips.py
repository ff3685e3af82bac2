"""Clips of the small dataset in VIPSeg's layout, and ways to spoil it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from small_vipseg import HEIGHT

from dvis_cli.config import InputConfig
from dvis_cli.datasets.categories import vipseg_categories
from dvis_cli.training.clip_settings import ClipSettings
from dvis_cli.training.clip_sources import ClipSource, open_source
from dvis_cli.training.clips import ClipDataset, ClipSample

PLAIN = {"short_sides": (HEIGHT,), "flip": False}
INDEX = {category.id: index for index, category in enumerate(vipseg_categories())}


def clips(source, length=8, seed=0, categories=None, **options) -> ClipDataset:
    clip = ClipSettings(**{**PLAIN, **options})
    return ClipDataset(source, categories or vipseg_categories(), clip, InputConfig(), seed, length)


def same(left: ClipSample, right: ClipSample) -> bool:
    return (
        left.name == right.name
        and np.array_equal(left.frames, right.frames)
        and torch.equal(left.targets.ids, right.targets.ids)
        and torch.equal(left.targets.classes, right.targets.classes)
    )


def edit(root: Path, change) -> ClipSource:
    """Rewrite the json of a dataset."""
    path = root / "panoptic_gt_VIPSeg_train.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    return open_source(root, "train")
