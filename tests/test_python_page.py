"""docs/python.md runs from top to bottom, and what it shows is true."""

from __future__ import annotations

import re
from pathlib import Path

import media
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from small_results import CATEGORIES, frames, write_result

from dvis_cli import open_result
from dvis_cli.structures import InstanceFrame, PanopticFrame

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools'


def test_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    try:
        import supervision  # noqa: F401
    except ImportError:
        blocks = [block for block in blocks if "supervision" not in block]
    media.write_video(tmp_path / "input.mp4", media.moving_squares(6, 64, 96), fps=10)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    out = capsys.readouterr().out
    assert "0 0.0 (64, 96)" in out and "panoptic 96 64 5 frames" in out and "5 images" in out
    assert (tmp_path / "exports").is_dir() == bool(names["ids"])


@pytest.mark.parametrize("task", ["panoptic", "instance"])
def test_frames_give_masks_and_detections(task: str) -> None:
    supervision = pytest.importorskip("supervision", reason="supervision is not installed")
    for frame, plain in zip(frames(3, task=task), frames(3), strict=True):  # type: ignore[arg-type]
        assert isinstance(frame, (InstanceFrame, PanopticFrame)) and isinstance(plain, PanopticFrame)
        found = frame.to_supervision()
        assert isinstance(found, supervision.Detections)
        assert found.tracker_id.tolist() == sorted(frame.segments)
        for id, mask, box, name in zip(
            found.tracker_id, found.mask, found.xyxy, found.data["class_name"], strict=True
        ):
            assert np.array_equal(mask, plain.ids == id) and np.array_equal(frame.mask(id), mask)
            ys, xs = np.nonzero(mask)
            assert box.tolist() == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert name == frame.segments[id].category.name
        assert not frame.mask(77).any()


def test_a_result_gives_coco_and_masks(tmp_path: Path) -> None:
    result = open_result(write_result(tmp_path, 4, film=False))
    document = result.to_coco()
    assert [one["name"] for one in document["categories"]] == [one.name for one in CATEGORIES if one.isthing]
    made = [frame for frame in frames(4) if isinstance(frame, PanopticFrame)]
    for one in document["annotations"]:
        mask = coco_mask.decode(one["segmentation"])
        assert (
            np.array_equal(mask, made[one["image_id"] - 1].ids == one["track_id"])
            and one["area"] == mask.sum()
        )
    assert len(result.to_coco(stuff=True)["annotations"]) == sum(len(frame.segments) for frame in made)
    for masks, frame in zip(result.masks([300, 2]), made, strict=True):
        assert np.array_equal(masks, np.stack([frame.ids == 300, frame.ids == 2]))
    assert next(result.masks([])).shape == (0, 96, 128)
