"""What helps a small network learn: a class loss on the pixels, an average of the weights, a backbone left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_training import make_dataset, write_recipe

from dvis_cli.checkpoints.files import read_tensors
from dvis_cli.training.dense import VOID, class_map
from dvis_cli.training.options import Job, Machine
from dvis_cli.training.targets import ClipTargets
from dvis_cli.training.train import train

CPU = Machine(accelerator="cpu", workers=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extras")
    make_dataset(folder / "data")
    write_recipe(
        folder / "recipe.yaml", iterations=5, optimizer={"backbone_lr": 0.0, "warmup": 0, "lr": 1e-3}
    )
    return folder


def run(root: Path, name: str, **more: object) -> dict[str, torch.Tensor]:
    resume = bool(more.pop("resume", False))
    stop = more.pop("stop", None)

    def on_iteration(iteration: int, figures: dict[str, float]) -> None:
        if iteration == stop:
            raise KeyboardInterrupt

    job = Job("segmenter", [root / "data"], recipe=root / "recipe.yaml")
    path = train(job, root / name, CPU, resume=resume, overrides=more, on_iteration=on_iteration)
    return read_tensors(path)[0]


def test_backbone_stays_and_the_extra_head_goes(root: Path) -> None:
    short, long = (run(root, f"dense{n}", dense=1.0, iterations=n) for n in (1, 3))
    names = [name for name in short if name.startswith("backbone.") and name.endswith("conv1.weight")]
    assert names and all(torch.equal(short[name], long[name]) for name in names)
    assert not any("dense" in name for name in short)
    mask = "sem_seg_head.pixel_decoder.mask_features.weight"
    assert not torch.equal(short[mask], long[mask])


def test_the_dense_loss_changes_what_is_learned(root: Path) -> None:
    mask = "sem_seg_head.pixel_decoder.mask_features.weight"
    assert not torch.equal(run(root, "with", dense=1.0)[mask], run(root, "without")[mask])


def test_the_average_is_kept_and_lies_between(root: Path) -> None:
    """With a decay of 0.5 after two iterations: the mean of both weights, the first counting what came before."""
    name = "sem_seg_head.pixel_decoder.mask_features.weight"
    first, second = (run(root, f"plain{n}", iterations=n)[name] for n in (1, 2))
    kept = run(root, "average", iterations=2, ema=0.9)[name]
    assert not torch.equal(kept, second)
    assert (kept - second).abs().max() < (first - second).abs().max() + 1e-3


def test_class_map_reads_the_middle_of_cells() -> None:
    ids = torch.zeros(1, 8, 12, dtype=torch.int16)
    ids[0, :, 6:] = 1
    ids[0, 2, 2] = 2
    found = class_map(ClipTargets.of(ids, torch.tensor([5, 3])), torch.Size((2, 3)))
    assert found.tolist() == [[[3, 5, 5], [VOID, 5, 5]]]
