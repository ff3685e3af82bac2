"""Whole runs on a data set of seconds: the three stages, interruptions, two processes, bad requests."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_training import make_dataset, write_recipe

from dvis_cli.checkpoints.files import read_tensors
from dvis_cli.errors import DvisError, DvisWarning, TrainingError, UsageError
from dvis_cli.run.loading import load_model, save_weights
from dvis_cli.training.curves import read_log
from dvis_cli.training.initialise import start_network
from dvis_cli.training.options import Job, Machine
from dvis_cli.training.stages import RefinerStage
from dvis_cli.training.train import train

pytest.importorskip("lightning")
CPU = Machine("cpu", workers=0)


class Stop(Exception):  # noqa: N818 - no error
    """Ends a run as a signal would."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, a recipe and a trained segmenter, tracker and refiner."""
    root = tmp_path_factory.mktemp("training")
    make_dataset(root / "data")
    make_dataset(root / "data", 1, "val", seed=1)
    write_recipe(root / "recipe.yaml")
    init = None
    for stage in ("segmenter", "tracker", "refiner"):
        cache = None if stage == "segmenter" else root / "cache"
        init = run(root, stage, root / stage, init=init, cache=cache)
    return root


def run(root: Path, stage: str, out: Path, **options) -> Path:
    names = ("init", "cache", "overfit", "backbone_init")
    job = Job(
        stage,
        [root / "data"],
        recipe=options.pop("recipe", root / "recipe.yaml"),
        **{name: options.pop(name) for name in names if name in options},
    )
    return train(job, out, options.pop("machine", CPU), **options)


def losses(folder: Path) -> list[tuple[float, float]]:
    return [(row["step"], row["loss"]) for row in read_log(folder) if "loss" in row]


def test_three_stages_make_one_model(made: Path) -> None:
    model = load_model(made / "refiner" / "refiner.safetensors", device="cpu")
    assert model.config.mode == "offline"
    assert [c.name for c in model.categories] == ["square", "disc", "lawn"]  # things first, ascending ids
    _, metadata = read_tensors(made / "refiner" / "refiner.safetensors")
    assert metadata["dvis_stage"] == "refiner"
    assert json.loads(metadata["dvis_training"])["settings"]["iterations"] == 6
    for stage in ("segmenter", "tracker", "refiner"):
        assert (made / stage / "curves.png").stat().st_size > 1000
        assert losses(made / stage)


def test_frozen_parts_do_not_move(made: Path) -> None:
    before, _ = read_tensors(made / "segmenter" / "segmenter.safetensors")
    after, _ = read_tensors(made / "refiner" / "refiner.safetensors")
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    tracker, _ = read_tensors(made / "tracker" / "tracker.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in tracker.items())


def test_frozen_parts_are_in_eval_mode(made: Path, tmp_path: Path, monkeypatch) -> None:
    seen: list[tuple[bool, bool, bool]] = []
    original = RefinerStage.losses

    def look(self, *arguments):
        parts = (self.network.segmenter, self.network.tracker, self.network.refiner)
        seen.append(tuple(part.training for part in parts))
        return original(self, *arguments)

    monkeypatch.setattr(RefinerStage, "losses", look)
    options = {
        "iterations": 3,
        "validate_every": 2,
        "validate_videos": 1,
    }  # validation must not leave its mark
    run(made, "refiner", tmp_path / "run", init=made / "tracker" / "tracker.safetensors", overrides=options)
    assert seen == [(False, False, True)] * 3


@pytest.mark.parametrize("stage", ["segmenter", "tracker", "refiner"])
def test_interrupted_and_resumed_is_the_same_curve(
    made: Path, tmp_path: Path, stage: str, monkeypatch
) -> None:
    monkeypatch.setattr("dvis_cli.training.callbacks.LOG_EVERY", 1)
    before = {"segmenter": None, "tracker": made / "segmenter/segmenter.safetensors"}
    init = before.get(stage, made / "tracker" / "tracker.safetensors")

    def stop_at_five(iteration: int, figures: dict[str, float]) -> None:
        if iteration == 5:
            raise Stop

    scored = {"validate_every": 3, "validate_videos": 1}
    run(made, stage, tmp_path / "whole", init=init, overrides=scored)
    with pytest.raises(Stop):
        run(made, stage, tmp_path / "cut", init=init, on_iteration=stop_at_five, overrides=scored)
    shutil.copytree(tmp_path / "cut", tmp_path / "again")
    run(made, stage, tmp_path / "cut", init=init, resume=True, overrides=scored)
    assert [row["step"] for row in read_log(tmp_path / "cut") if "vpq" in row] == [3, 6]
    assert [i for i, _ in losses(tmp_path / "cut")] == [1, 2, 3, 4, 5, 6]
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    whole, _ = read_tensors(tmp_path / "whole" / f"{stage}.safetensors")
    cut, _ = read_tensors(tmp_path / "cut" / f"{stage}.safetensors")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    with pytest.raises(UsageError, match=r"begun with settings\.seed 0, now it is 5"):
        run(made, stage, tmp_path / "again", init=init, resume=True, overrides={**scored, "seed": 5})


def test_a_run_of_an_earlier_version_is_resumed(made: Path, tmp_path: Path) -> None:
    """Settings that a version has more are at their defaults, and those that differ are still refused."""
    shutil.copytree(made / "segmenter", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    facts = json.loads(path.read_text())
    del facts["settings"]["ema"], facts["settings"]["clip"]["paste"], facts["model"]["refiner"]["blend"]
    path.write_text(json.dumps(facts))
    run(made, "segmenter", tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="begun with settings"):
        run(made, "segmenter", tmp_path / "run", resume=True, overrides={"ema": 0.5})


def test_two_processes_give_the_losses_of_one(made: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    recipe = write_recipe(tmp_path / "recipe.yaml", iterations=20, batch=4)
    run(made, "segmenter", tmp_path / "one", recipe=recipe)
    command = [sys.executable, "-m", "dvis_cli", "train", "segmenter", "--device", "cpu", "--workers", "0"]
    command += ["--data", str(made / "data"), "--config", str(recipe), "-o", str(tmp_path / "two")]
    command += ["--devices", "2", "--quiet"]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [i for i, _ in one] == [i for i, _ in two] == [10, 20]
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-3)


def test_overfitting_two_clips_learns(made: Path, tmp_path: Path) -> None:
    recipe = write_recipe(
        tmp_path / "recipe.yaml", iterations=40, optimizer={"lr": 2e-3, "clip_norm": 1.0, "steps": []}
    )
    run(made, "segmenter", tmp_path / "run", recipe=recipe, overfit=2)
    curve = [loss for _, loss in losses(tmp_path / "run")]
    assert curve[-1] < 0.6 * curve[0]


def test_cache_and_pictures_train_the_same(made: Path, tmp_path: Path) -> None:
    init = made / "segmenter" / "segmenter.safetensors"
    run(made, "tracker", tmp_path / "pictures", init=init)
    run(made, "tracker", tmp_path / "cached", init=init, cache=tmp_path / "cache")
    pictures, cached = losses(tmp_path / "pictures"), losses(tmp_path / "cached")
    assert [loss for _, loss in cached] == pytest.approx([loss for _, loss in pictures], rel=2e-3)


@pytest.mark.parametrize(
    ("stage", "init", "options", "error"),
    [
        ("tracker", None, {}, "needs --init"),
        ("refiner", "segmenter", {}, "has no tracker"),
        ("segmenter", None, {"cache": Path("x")}, "learns from pictures"),
        ("segmenter", None, {"overrides": {"batch": 3}, "machine": Machine("cpu", 2)}, "make it a multiple"),
        ("tracker", "segmenter", {"backbone_init": Path("x")}, "--backbone-init is for a segmenter"),
        ("segmenter", None, {"overrides": {"optimizer": {"lr": float("nan")}}}, "lr=nan must be a number"),
        ("segmenter", None, {"overrides": {"points": {"count": 0}}}, "count=0 must be at least 1"),
        ("segmenter", None, {"machine": Machine("mps", 1)}, "--device mps"),
    ],
)
def test_wrong_requests_are_one_sentence(made: Path, tmp_path: Path, stage, init, options, error) -> None:
    init = made / init / f"{init}.safetensors" if init else None
    with pytest.raises(DvisError, match=error):
        run(made, stage, tmp_path / "run", init=init, **options)


def test_other_classes_need_the_segmenter_first(made: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path / "data", 1)
    path = other / "panoptic_gt_VIPSeg_train.json"
    document = json.loads(path.read_text())
    document["categories"][0]["name"] = "coin"
    path.write_text(json.dumps(document))
    init = made / "segmenter" / "segmenter.safetensors"
    with pytest.raises(TrainingError, match="fine-tune its segmenter"):
        train(Job("tracker", [other], recipe=made / "recipe.yaml", init=init), tmp_path / "t", CPU)
    job = Job("segmenter", [other], init=init, recipe=made / "recipe.yaml")
    with pytest.warns(DvisWarning, match="class head of 3 classes begins anew"):
        result = train(job, tmp_path / "s", CPU)
    assert [c.name for c in load_model(result, device="cpu").categories] == ["square", "coin", "lawn"]


def test_a_loss_that_is_no_number_stops(made: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"iteration \d+: loss_\w+ is (nan|inf)"):
        run(
            made,
            "segmenter",
            tmp_path / "run",
            overrides={"optimizer": {"lr": 1e30, "clip_norm": 1e30, "warmup": 0}},
        )


def test_a_run_is_not_begun_twice(made: Path) -> None:
    with pytest.raises(UsageError, match="holds a run already"):
        run(made, "segmenter", made / "segmenter")


def test_unusable_clips_are_counted(made: Path, tmp_path: Path) -> None:
    data = shutil.copytree(made / "data", tmp_path / "data")
    for image in (data / "images" / "train0").iterdir():
        image.write_bytes(b"no jpeg")
    with pytest.warns(DvisWarning, match=r"gave no clip were replaced: unreadable image \(\d+\)"):
        train(Job("segmenter", [data], recipe=made / "recipe.yaml"), tmp_path / "run", CPU)


def test_a_new_tracker_begins_with_the_segmenters_predictions(made: Path, tmp_path: Path) -> None:
    """Also where the segmenter's last norm is far from doing nothing, as in a trained one."""
    model = load_model(made / "segmenter" / "segmenter.safetensors", device="cpu")
    random = torch.Generator().manual_seed(0)
    norm = model.segmenter.query_decoder.norm
    norm.weight.copy_(2 + 0.1 * torch.randn(32, generator=random))
    norm.bias.copy_(torch.randn(32, generator=random))
    path = tmp_path / "segmenter.safetensors"
    save_weights(model, path)
    network = start_network("tracker", model.categories, init=path, model=None)
    decoder, tracker = network.segmenter.query_decoder, network.tracker
    assert tracker is not None
    queries = decoder.norm(torch.randn(1, 1, 8, 32, generator=random))
    with torch.no_grad():
        tracks, _ = tracker(queries)
        for name in ("class_head", "mask_head"):
            wanted = getattr(decoder, name)(queries)
            assert (getattr(tracker, name)(tracks.queries) - wanted).norm() < 0.25 * wanted.norm(), name
