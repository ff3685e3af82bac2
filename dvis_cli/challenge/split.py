"""One split of a dataset: every video through the pipeline, into a submission folder that can be resumed.

RUN/pan_pred/<video_id>/<stem>.png   panoptic: each video when it is done, whole or not at all
RUN/pred.json                                  when all videos are done
RUN/<video_id>/<stem>.png            semantic: each video when it is done
RUN/results.json                     instance: when all videos are done
RUN/run.json                         the settings; a run is only ever continued with the same ones
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dvis_cli.challenge.formats import FORMATS
from dvis_cli.challenge.writing import SETTINGS_NAME, VOLATILE, VideoWriter
from dvis_cli.datasets.vipseg import VIPSeg, VIPSegVideo
from dvis_cli.errors import DatasetError, DvisError, OutputError, UsageError
from dvis_cli.files import output_errors
from dvis_cli.run.model import DvisModel
from dvis_cli.run.options import SegmentOptions
from dvis_cli.run.settings import describe, settings_for
from dvis_cli.run.video import SegmentedVideo, segment_video
from dvis_cli.video import Selection
from dvis_cli.video.image_files import ImageFiles
from dvis_cli.writers.segments_json import write_json

FRAMES_PER_SECOND = 5.0  # of VIPSeg; names no time in the results


@dataclass
class SplitReport:
    """What became of the videos of a split."""

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # finished by an earlier run
    failed: dict[str, str] = field(default_factory=dict)  # video id -> why
    frames: int = 0  # segmented in this run
    # `pred.json`, `results.json`, or the folder of maps; None while videos are missing.
    result: Path | None = None


def segment_split(
    dataset: VIPSeg,
    run: Path,
    model: DvisModel,
    options: SegmentOptions | None = None,
    *,
    on_video: Callable[[str, SplitReport], None] = lambda video_id, report: None,
    on_progress: Callable[[str, int], None] | None = None,
    **changes: Any,
) -> SplitReport:
    """Segment every video of a split and leave a submission-ready folder.

    A video that fails does not stop the others; run again to try it once more. Finished videos are skipped.

    Args:
        dataset: the split; its images are read in the order of its json.
        run: the folder to fill or to continue.
        model: of `load_model`.
        on_video: called after each video.
        options, on_progress, changes: as in `segment_video`.

    Raises:
        UsageError: the model's classes are not the dataset's.
        OutputError: `run` was made with other settings, or cannot be written.
    """
    _check_categories(dataset, model)
    options = replace(options or SegmentOptions(), **changes)
    form = FORMATS[options.task]
    finished = form.finished(run)
    _check_settings(run, model, options, started=any(other.finished(run) for other in FORMATS.values()))
    report = SplitReport()
    for number, video in enumerate(dataset.videos, start=1):
        if video.video_id in finished:
            report.skipped.append(video.video_id)
        else:
            try:
                images = _images(dataset, video)
                segmented = segment_video(images, model, options, on_progress=on_progress)
                report.frames += _write(segmented, form.writer(run, video.video_id, number))
                report.done.append(video.video_id)
            except (OutputError, UsageError):
                raise  # the next video would meet it, too
            except DvisError as error:
                report.failed[video.video_id] = str(error)
        on_video(video.video_id, report)
    if not report.failed:
        report.result = form.complete(run, [video.video_id for video in dataset.videos])
    return report


def _check_categories(dataset: VIPSeg, model: DvisModel) -> None:
    """A submission has the dataset's category ids."""
    known = {category.id: category.isthing for category in dataset.categories}
    strange = [c.name for c in model.categories if known.get(c.id) != c.isthing]
    if strange:
        raise UsageError(
            f"model {model.config.name!r} has classes that {dataset.json_path} does not know: "
            f"{', '.join(strange[:5])}; a model for this dataset is needed"
        )


def _images(dataset: VIPSeg, video: VIPSegVideo) -> ImageFiles:
    paths = dataset.image_paths(video)
    images = ImageFiles(paths[0].parent, video.video_id, paths, Selection(), FRAMES_PER_SECOND)
    size, first = (images.info.width, images.info.height), video.frames[0]
    if size != (first.width, first.height):
        raise DatasetError(
            f"video '{video.video_id}': images are {size[0]} x {size[1]} pixels, the json "
            f"says {first.width} x {first.height}"
        )
    return images


def _check_settings(run: Path, model: DvisModel, options: SegmentOptions, started: bool) -> None:
    """Write the settings down, or compare them with those of the run that is continued."""
    facts = describe(model, settings_for(model, options), options, views=[])  # input sizes are a video's own
    settings = json.loads(json.dumps({k: v for k, v in facts.items() if k not in VOLATILE}))
    path = run / SETTINGS_NAME
    if not (started and path.is_file()):
        with output_errors(run):
            run.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise OutputError(f"{path} cannot be read; choose another folder") from None
    for key in settings:
        if earlier.get(key) != settings[key]:
            raise OutputError(
                f"{run} was begun with {key} {json.dumps(earlier.get(key))}, now it is {json.dumps(settings[key])}; "
                "use the same settings or another folder"
            )


def _write(segmented: SegmentedVideo, writer: VideoWriter) -> int:
    """Write one video; returns its number of frames."""
    count = 0
    with closing(segmented), writer:
        for frame in segmented:
            writer.add(frame)
            count += 1
        writer.finish(segmented.segments)
    return count
