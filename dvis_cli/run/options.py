"""How one video is segmented: one record from the command line to the run.

The options of `dvis segment` are made from these fields (`cli/options.py`), `segment_video` takes the record, and a
batch hands it to its workers. Everything in it is plain data: `config.to_document` and `config.build_config` turn it
into JSON and back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args

from dvis_cli.config import MODES, TASKS, Mode, TaskName
from dvis_cli.errors import UsageError

from .units import parse_bytes, parse_names, parse_seconds, parse_short_sides

if TYPE_CHECKING:
    from dvis_cli.video import Selection
    from dvis_cli.writers.video_folder import Outputs

Precision = Literal["auto", "fp32", "bf16"]
Compile = Literal["off", "auto"]
OverlayChoice = Literal["blend", "side-by-side", "masks", "none"]
LIVE = "cameras, streams, pipes"
REPORT_PAIR = (720, 800)  # short sides of the report's two scales


@dataclass(frozen=True)
class Option:
    """How a field looks on the command line."""

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()  # () is `--name`, and for a switch `--name/--no-name`
    parse: Callable[[str | None, str], Any] | None = None  # from (text or None, "--name") to the value
    panel: str | None = None
    min: int | None = None  # the least value that is taken
    argument: bool = False  # comes without a name
    changes_result: bool = True  # False: speed, rounding, or whether there may be a result


def option(default: Any, help: str, **look: Any) -> Any:
    """A dataclass field that is an option of the command line, too.

    Args:
        default: MISSING: it must be given.
        look: the other fields of `Option`.
    """
    return field(default=default, metadata={"option": Option(help, **look)})


def option_fields(kind: type) -> list[tuple[Field[Any], Option]]:
    """The fields of a dataclass that are options, in order."""
    return [(one, one.metadata["option"]) for one in fields(kind) if "option" in one.metadata]


@dataclass(frozen=True)
class SegmentOptions:
    """What to do with one video. None is the model's own value, or the machine's.

    Raises:
        UsageError: a value out of range, or two that exclude each other.
    """

    model: str | None = option(
        None, "A name from 'dvis models', or a weight file.", metavar="NAME|FILE", flags=("--model", "-m")
    )
    config: str | None = option(
        None, "The model's configuration: ours, or the official code's as it is.", metavar="YAML"
    )
    classes_of: str | None = option(
        None, "Class list of weights that do not say theirs: vipseg, youtube_vis_2021, ...", metavar="NAME"
    )
    mode: Mode | None = option(
        None,
        "offline refines tracks with the whole clip in view. Default: the model's own, else all it can do.",
    )
    task: TaskName = option(
        "panoptic", "Objects and stuff, objects with masks that overlap, or classes only."
    )
    short_side: int | None = option(
        None, "Pixels of the short side in the network. Default: the model's own."
    )
    scales: tuple[int, ...] | None = option(
        None,
        "Several short sides, e.g. 720,800, whose results are fused.",
        metavar="N,N,...",
        parse=parse_short_sides,
    )
    tta: bool = option(
        False, "The report's two scales: the short side and 10/9 of it, 720 and 800.", flags=("--tta",)
    )
    flip: bool = option(False, "Fuse with every scale mirrored, too.", flags=("--flip",))
    start: float | None = option(None, "Begin here: seconds, or M:SS.", metavar="TIME", parse=parse_seconds)
    end: float | None = option(None, "Stop before this time.", metavar="TIME", parse=parse_seconds)
    stride: int = option(1, "Take every N-th frame.", flags=("--stride", "--every"))
    max_frames: int | None = option(None, "Stop after this many frames.")
    video_track: int | None = option(
        None, "Which of several video tracks, from 0. Default: the best by FFmpeg's rule.", metavar="N"
    )
    folder_fps: float = option(25.0, "Frame rate of an image folder.")
    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", changes_result=False)
    precision: Precision = option("auto", "fp32 is exact, bf16 faster; auto is bf16 where a GPU has it.")
    compile: Compile = option(
        "off",
        "auto compiles the network for the video's size where that gains: on a GPU, and it takes a minute or more.",
        changes_result=False,
    )
    window: int | None = option(None, "Frames that the refiner sees at once. Default: the model's own.")
    horizon: int | None = option(
        None, "Frames whose classes are decided together. Default: the model's own, or the window."
    )
    memory_budget: int | None = option(
        None,
        "Waiting data in RAM, e.g. 2GB; more goes to a temporary file.",
        metavar="SIZE",
        parse=parse_bytes,
        changes_result=False,
    )
    score_threshold: float | None = option(
        None, "Drop objects less certain than this. Usually 0.8; instances: 0."
    )
    overlap_threshold: float | None = option(
        None, "Drop objects less visible than this share of their mask. Usually 0.8."
    )
    top_k: int | None = option(None, "Instances to keep: the likeliest. Default: 20.")
    classes: tuple[str, ...] | None = option(
        None,
        "Show these classes only, the rest is void: names, dataset ids, things, stuff.",
        metavar="NAME,NAME,...",
        parse=parse_names,
    )
    overlay: OverlayChoice = option("blend", "The overlay video's style.")
    report: bool = option(
        False,
        "Write report.html: a page that plays the film with its objects.",
        flags=("--report",),
    )
    maps: bool = option(
        True,
        "Write the PNG maps; of instances, the masks.",
        flags=("--maps/--no-maps", "--panoptic/--no-panoptic"),
    )
    segments: bool = option(True, "Write segments.json.")
    format: tuple[str, ...] | None = option(
        None,
        "Other tools' formats, in exports/: coco, cvat, matte:webm, ... (see dvis export FORMAT).",
        metavar="NAME,NAME,...",
        parse=parse_names,
    )
    only: tuple[str, ...] | None = option(
        None,
        "Export these classes or segment ids only.",
        metavar="NAME|ID,...",
        parse=parse_names,
    )
    per_object: bool = option(False, "Export a file for each segment.", flags=("--per-object",))
    images: bool = option(False, "Export the frames as JPEG, too.", flags=("--images",))
    overwrite: bool = option(False, "Replace earlier results. Default: refuse.", changes_result=False)
    batch: int | None = option(
        None,
        "Frames that the network sees at once; halved where memory runs out. Default: 4 on a GPU, 1 on a CPU.",
        changes_result=False,
    )
    threads: int | None = option(
        None, "CPU threads of the network. Default: all cores.", changes_result=False
    )
    deterministic: bool = option(
        False,
        "Encode videos to the same bytes on every machine. Default: with a GPU, by its encoder or in two threads.",
        flags=("--deterministic",),
    )

    def __post_init__(self) -> None:
        for name, choices in (("mode", (None, *MODES)), ("task", TASKS), ("precision", get_args(Precision)),
                              ("compile", get_args(Compile)), ("overlay", get_args(OverlayChoice))):  # fmt: skip
            if getattr(self, name) not in choices:
                raise UsageError(
                    f"{name} {getattr(self, name)!r}: choose one of {', '.join(filter(None, choices))}"
                )
        for name in ("short_side", "stride", "max_frames", "window", "horizon", "top_k", "batch", "threads"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name.replace('_', '-')} {value} must be at least 1")
        for name in ("score_threshold", "overlap_threshold"):
            if (value := getattr(self, name)) is not None and not 0 <= value <= 1:
                raise UsageError(f"{name.replace('_', '-')} {value} must lie in 0..1")
        if self.memory_budget is not None and self.memory_budget < 0:
            raise UsageError(f"memory-budget {self.memory_budget} bytes must not be negative")
        if self.deterministic and self.compile != "off":
            raise UsageError(
                f"--compile {self.compile} rounds in other places: leave it out with --deterministic"
            )
        if not (math.isfinite(self.folder_fps) and self.folder_fps > 0):
            raise UsageError(f"folder-fps {self.folder_fps} must be more than 0")
        if not (self.maps or self.segments or self.overlay != "none" or self.report):
            raise UsageError("nothing to write: no maps, no segments.json, no overlay and no report")
        if self.format is not None and not (self.maps and self.segments):
            raise UsageError(
                "--format needs the maps and segments.json: leave out --no-maps and --no-segments"
            )
        _ = self.selection, self.soft
        self.short_sides(REPORT_PAIR[0])

    @property
    def selection(self) -> Selection:
        """Which frames of the source."""
        from dvis_cli.video import Selection

        return Selection(self.start, self.end, self.stride, self.max_frames, self.video_track)

    @property
    def soft(self) -> bool:
        """Whether a format has edges that follow the mask probabilities."""
        if self.format is None:
            if self.only or self.per_object or self.images:
                raise UsageError("--only, --per-object and --images are for --format: name one")
            return False
        from dvis_cli.export.formats import parse_formats

        return self.task == "panoptic" and any(chosen.format.edges for chosen in parse_formats(self.format))

    @property
    def outputs(self) -> Outputs:
        """Which files to write."""
        from dvis_cli.writers.video_folder import Outputs

        return Outputs(
            self.maps, self.segments, None if self.overlay == "none" else self.overlay, self.report
        )

    def short_sides(self, own: int) -> tuple[int, ...]:
        """The scales in pixels, those nearest to the model's own short side first: it is the reference."""
        scales = self.scales
        if scales is not None and (self.tta or self.short_side is not None):
            other = "tta" if self.tta else f"short side {self.short_side}"
            raise UsageError(f"scales {_listed(scales)} and {other} were both given: choose one")
        if scales is None:
            side = own if self.short_side is None else self.short_side
            scales = (side, round(side * REPORT_PAIR[1] / REPORT_PAIR[0])) if self.tta else (side,)
        if not scales:
            raise UsageError("no scales were given: name short sides in pixels, such as 720,800")
        if min(scales) < 1:
            raise UsageError(f"scales {_listed(scales)}: a short side must be 1 pixel or more")
        if len(set(scales)) < len(scales):
            raise UsageError(f"scales {_listed(scales)}: the same scale twice changes nothing; name it once")
        return tuple(sorted(scales, key=lambda side: (abs(side - own), side)))

    def result_facts(self) -> dict[str, Any]:
        """The options that change the result, by name; two videos with equal ones are made in the same way."""
        return {
            one.name: getattr(self, one.name)
            for one, look in option_fields(type(self))
            if look.changes_result
        }


@dataclass(frozen=True)
class LiveOptions:
    """What is for cameras, streams and pipes only."""

    realtime: bool | None = option(
        None,
        "Drop frames rather than fall behind, or keep all. Default: drop, of pipes keep.",
        flags=("--realtime/--no-drop",),
        panel=LIVE,
    )
    patience: float = option(
        30.0, "Seconds to try again when a stream breaks off.", metavar="SECONDS", panel=LIVE
    )
    display: bool = option(False, "Show the overlay in a player's window.", flags=("--display",), panel=LIVE)
    pipe_format: Literal["mpegts", "y4m"] = option("mpegts", "What -o - writes.", panel=LIVE)
    jsonl: str | None = option(
        None, "One line of JSON for each frame to this file, - is stdout.", metavar="FILE", panel=LIVE
    )


def _listed(scales: tuple[int, ...]) -> str:
    return ",".join(map(str, scales))
