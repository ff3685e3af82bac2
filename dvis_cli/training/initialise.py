"""What a stage begins with: the earlier stage's file, ImageNet or COCO weights, and copied heads.

A checkpoint that cannot be right for a stage is refused; what is left out of one is reported.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dvis_cli.checkpoints.files import read_tensors
from dvis_cli.checkpoints.imagenet import backbone_tensors
from dvis_cli.config import Mode, ModelConfig
from dvis_cli.errors import DvisWarning, TrainingError, UsageError
from dvis_cli.run.loading import Checkpoint, read_checkpoint
from dvis_cli.run.model import DvisModel
from dvis_cli.segmenter.segmenter import Segmenter
from dvis_cli.structures import Category

from .options import StageName
from .settings import STAGES

MODE_OF: dict[StageName, Mode] = {"segmenter": "minvis", "tracker": "online", "refiner": "offline"}
GENTLE = 0.1  # times the usual scale of a new block's last weights: it begins close to the identity


def start_network(
    stage: StageName,
    categories: Sequence[Category],
    *,
    init: Path | None,
    model: ModelConfig | None,
    backbone_init: Path | None = None,
    seed: int = 0,
) -> DvisModel:
    """The network that a stage trains, with all weights that it begins with.

    What of a checkpoint is left out is a `DvisWarning`.

    Args:
        categories: the classes to learn, in the order of the logits.
        init: the earlier stage's weights; for the segmenter any Mask2Former checkpoint, or None.
        model: the network's configuration; None takes it from `init`.
        backbone_init: ImageNet weights, for the segmenter only.
        seed: of the weights that begin at random.

    Raises:
        TrainingError: the checkpoint is not what this stage needs.
        UsageError: neither `init` nor `model`, or a backbone where none is trained.
    """
    if backbone_init is not None and (stage != "segmenter" or init is not None):
        raise UsageError("--backbone-init is for a segmenter that begins without --init")
    checkpoint = read_checkpoint(init) if init is not None else None
    if checkpoint is None and stage != "segmenter":
        before = STAGES[STAGES.index(stage) - 1]
        raise UsageError(f"stage {stage} needs --init: the weights that 'dvis train {before}' left")
    if checkpoint is None and model is None:
        raise UsageError(
            "nothing to train: give --init CHECKPOINT, or a recipe with a 'model' section (--config)"
        )
    config = model or (checkpoint.config if checkpoint else None)
    assert config is not None
    config = dataclasses.replace(config, mode=_mode(stage, config), num_classes=len(categories))
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    network = DvisModel(config, categories)
    torch.random.set_rng_state(state)
    have: set[str] = set()
    if checkpoint is not None:
        have = _take_over(network, checkpoint, stage, categories)
    if backbone_init is not None:
        if not isinstance(network.segmenter, Segmenter):
            raise UsageError(
                "--backbone-init: ImageNet weights are for the backbones of DVIS, not for VidEoMT"
            )
        backbone = network.segmenter.backbone
        tensors, _ = read_tensors(backbone_init)
        backbone.load_state_dict(
            backbone_tensors(tensors, backbone.state_dict(), backbone_init), strict=False
        )
    _copy_heads(network, stage, have)
    return network


def _mode(stage: StageName, config: ModelConfig) -> Mode:
    """What the network has to be able to do. Raises `UsageError` where its family has no such training."""
    if config.family == "videomt" and stage == "tracker":
        raise UsageError("VidEoMT tracks in its segmenter: train that, then the refiner")
    if config.family == "dvis++" and stage != "refiner":
        raise UsageError(f"stage {stage} cannot be trained for DVIS++: only its refiner can")
    return "online" if config.family == "videomt" and stage == "segmenter" else MODE_OF[stage]


def _take_over(
    network: DvisModel, checkpoint: Checkpoint, stage: StageName, categories: Sequence[Category]
) -> set[str]:
    """Copy the parts of a checkpoint that the stage needs; returns the names of the parts copied."""
    path, needed = checkpoint.path, STAGES[: STAGES.index(stage)]
    if network.config.family == "videomt":
        needed = tuple(part for part in needed if part != "tracker")
    there = {name.split(".")[0] for name in checkpoint.tensors}
    for part in needed:
        if part not in there:
            raise TrainingError(
                f"{path} has no {part}, which stage {stage} needs: train it first with 'dvis train {part}'"
            )
    unused = [part for part in STAGES[STAGES.index(stage) + 1 :] if part in there]
    if unused:
        _warn(f"{path}: its {' and '.join(unused)} left out; they must be trained again after this stage")
    same_classes = checkpoint.categories is None or _class_key(checkpoint.categories) == _class_key(
        categories
    )
    wanted = network.state_dict()
    taken, dropped = {}, []
    for name, tensor in checkpoint.tensors.items():
        if name not in wanted:
            continue
        fits = tensor.shape == wanted[name].shape
        if ".class_head." in name and not (fits and same_classes):
            dropped.append(name)
        elif not fits:
            raise TrainingError(
                f"{path}: {name} is {list(tensor.shape)}, the recipe's model has {list(wanted[name].shape)}; "
                "leave the recipe's 'model' out to take it from the file"
            )
        else:
            taken[name] = tensor.float() if tensor.is_floating_point() else tensor
    if dropped and stage != "segmenter" and any(name.split(".")[0] in needed for name in dropped):
        raise TrainingError(
            f"{path} knows other classes than the dataset's {len(categories)}: fine-tune its segmenter on them first "
            "('dvis train segmenter --init ...')"
        )
    if dropped:
        _warn(f"{path}: class head of {len(categories)} classes begins anew, the file's are others")
    missing = [n for n in wanted if n.split(".")[0] in needed and n not in taken]
    if missing:
        raise TrainingError(
            f"{path} does not fit: {len(missing)} tensors are missing, the first {missing[0]!r}"
        )
    network.load_state_dict(taken, strict=False)
    return {name.split(".")[0] for name in taken}


def _warn(text: str) -> None:
    warnings.warn(text, DvisWarning, stacklevel=4)


def _class_key(categories: Sequence[Category]) -> list[tuple[int, str]]:
    return [(category.id, category.name) for category in categories]


def _copy_heads(network: DvisModel, stage: StageName, have: set[str]) -> None:
    """Let a new tracker or refiner begin as a copy of the part before it, its blocks close to the identity.

    Its first predictions are then nearly those of the part before, and training only has to improve on them.
    """
    if stage in have or stage == "segmenter":
        return
    source: nn.Module | None = network.query_decoder if stage == "tracker" else network.tracker
    target: Any = network.tracker if stage == "tracker" else network.refiner
    assert source is not None and target is not None
    with torch.no_grad():
        for name in ("class_head", "mask_head", "norm"):
            head = getattr(source, name).state_dict()
            if name == "class_head":  # that of a DVIS++ tracker gets the reference, too, in front
                head["weight"] = head["weight"][:, -target.class_head.in_features :]
            getattr(target, name).load_state_dict(head)
        for name, parameter in target.named_parameters():
            if name.endswith(("out_proj.weight", "ffn.linear2.weight", "short_term.conv2.weight")):
                parameter.mul_(GENTLE)
        # A norm that gets the output of its own copy, normalised anew, has to give nearly the same again.
        norm = target.norm
        assert isinstance(norm, nn.LayerNorm)
        weight, bias = norm.weight.clone(), norm.bias.clone()
        norm.weight.fill_(float((weight.square().mean() + bias.var(correction=0)).sqrt()))
        norm.bias.fill_(float(bias.mean()))
