"""The records that travel between stages, with their shapes. Stages share these and nothing else.

One glossary for the whole package. Sizes:

    B       videos in a batch (1 at inference)
    T       frames of a chunk, window or horizon
    Q       queries of a frame (100 for ResNet-50, 200 for Swin-L)
    C       channels of a query and of the mask features (256)
    S       views of a video
    K       classes (124 for VIPSeg); logits have K + 1, the last one means "no object"
    L       pyramid levels of the pixel decoder, coarse first (strides 32, 16, 8)
    H W     pixels: of the padded network input, or of the output, as the docstring has it
    h w     H/4, W/4: the stride of the mask features

Words:

    query     a vector that stands for something in a frame; with a class head a class, with mask features a mask
    track     a row of queries through time: query q of every frame is the same object
    view      a way in which the frames go through the network: a scale, mirrored or not
    tube      one thing through the frames of a horizon: one query of one view, or several that are the same object
    window    the frames that the refiner sees at once
    horizon   the frames whose classes and masks are decided together; at least a window
    segment   an object with an id, or all that a stuff class covers, in the finished video
    void      pixels of no segment, id 0

Pixel data from the outside is `uint8` RGB in numpy; everything inside the networks is a float tensor.
Times are seconds, sizes are pixels, boxes are `(x, y, width, height)`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from torch import Tensor


class Record:
    """A dataclass whose `repr` prints the shapes of arrays and tensors, not their numbers."""

    __slots__ = ()

    def __repr__(self) -> str:
        shown = (f"{one.name}={_shown(getattr(self, one.name))}" for one in fields(self))  # type: ignore[arg-type]
        return f"{type(self).__name__}({', '.join(shown)})"


def _shown(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, dict):
        return f"{{{', '.join(map(str, value))}}}"
    return repr(value)


@dataclass(frozen=True, slots=True)
class Category:
    """One class of a label set."""

    id: int  # the dataset's own id (VIPSeg: 0..123)
    name: str
    isthing: bool  # things are counted, one id per object; stuff is one region per class
    color: tuple[int, int, int]  # RGB 0..255, for people only: two categories may share one


@dataclass(frozen=True, slots=True)
class VideoInfo:
    """What is known of a source before its frames are read."""

    name: str  # file stem or folder name: names the output folder
    path: str
    width: int  # pixels as shown: after rotation and sample aspect ratio
    height: int
    fps: float  # average frame rate of the delivered frames, > 0
    frames: int | None  # frames that will be delivered, an estimate for files; None when unknown
    duration: float | None  # seconds, None when unknown
    has_audio: bool
    start: float = 0.0  # presentation time of the first delivered frame on the source's own clock


@dataclass(frozen=True, slots=True, repr=False)
class Frame(Record):
    """One decoded frame, upright and with square pixels."""

    index: int  # 0, 1, 2, ... over the delivered frames
    pts: float  # presentation time in seconds; the source's own clock
    rgb: np.ndarray  # (height, width, 3) uint8 RGB
    name: str | None = None  # file stem for image folders


@dataclass(frozen=True, slots=True)
class Geometry:
    """The three sizes of one video: output -> resized -> padded. All `(height, width)` in pixels."""

    output: tuple[int, int]  # the frame as decoded; results come at this size
    resized: tuple[int, int]  # after the short-side rule
    padded: tuple[int, int]  # resized, rounded up to the size divisor


@dataclass(frozen=True, slots=True)
class View:
    """One of the ways in which the frames of a video go through the network."""

    geometry: Geometry
    mirrored: bool = False  # left and right exchanged


@dataclass(frozen=True, slots=True, repr=False)
class SegmenterOutput(Record):
    """What the segmenter found in each of T frames; independently, but for VidEoMT."""

    # (T, Q, C) after the decoder's final norm; DVIS++: (T, Q, 3C), see `QueryDecoder.forward`.
    queries: Tensor
    mask_features: Tensor  # (T, C, h, w)
    class_logits: Tensor  # (T, Q, K+1)
    memory: Tensor | None = None  # (1, Q, C) of VidEoMT: what its next frame begins with


@dataclass(frozen=True, slots=True, repr=False)
class TrackerState(Record):
    """All that the tracker remembers between two frames."""

    matched: Tensor  # (B, Q, C) the last frame's segmenter queries in track order
    output: Tensor  # (B, Q, C) the last frame's tracker output before the final norm


@dataclass(frozen=True, slots=True, repr=False)
class Tracks(Record):
    """Queries in track order: row q is the same object in every frame."""

    queries: Tensor  # (B, T, Q, C) after the final norm
    class_logits: Tensor  # (B, T, Q, K+1)
    indices: Tensor  # (B, T, Q) int64: which segmenter query of the frame was put in row q
    before_norm: Tensor  # (B, T, Q, C)


@dataclass(frozen=True, slots=True, repr=False)
class RefinedTracks(Record):
    """Tracks corrected with the whole window in view."""

    queries: Tensor  # (B, T, Q, C) after the final norm
    class_logits: Tensor  # (B, Q, K+1), one distribution per query and window


@dataclass(slots=True)
class Segment:
    """One object (or one stuff region) of a video."""

    id: int  # 1, 2, 3, ...: the value in the PNG
    category: Category
    score: float  # 0..1: class probability
    query: int | None = None  # of instance segmentation: the row of the tracks that it comes from


@dataclass(frozen=True, slots=True, repr=False)
class SoftEdges(Record):
    """How sure a frame's map is of its pixels: the two segments of each that are the likeliest."""

    ids: np.ndarray  # (2, height, width) int32: the likeliest and the next; 0 where there is none
    shares: np.ndarray  # (2, height, width) uint8: their mask probabilities, 255 is 1


@dataclass(frozen=True, slots=True, repr=False)
class PanopticFrame(Record):
    """One finished frame. Of semantic segmentation, too: there a segment is all that a class covers."""

    index: int
    pts: float  # seconds
    rgb: np.ndarray  # (height, width, 3) uint8: the decoded frame
    ids: np.ndarray  # (height, width) int32: segment ids, 0 = void
    segments: dict[int, Segment] = field(default_factory=dict)  # id -> segment, for the ids in this frame
    name: str | None = None
    soft: SoftEdges | None = None  # where the run was told to keep them

    def mask(self, id: int) -> np.ndarray:
        """(height, width) bool: where a segment is; all False where it is not in the frame."""
        return self.ids == id

    def to_supervision(self) -> Any:
        """`supervision.Detections` of the frame: masks, boxes, scores, `class_id`, and ids as `tracker_id`.

        Raises ImportError where supervision is not installed.
        """
        return _detections(self)


@dataclass(frozen=True, slots=True, repr=False)
class InstanceFrame(Record):
    """One finished frame of instance segmentation. Masks may overlap."""

    index: int
    pts: float  # seconds
    rgb: np.ndarray  # (height, width, 3) uint8: the decoded frame
    masks: dict[int, str]  # segment id -> its mask as COCO run lengths (`coco_masks`); no entry: no pixel
    segments: dict[int, Segment] = field(default_factory=dict)  # id -> segment, for the ids in `masks`
    name: str | None = None

    def mask(self, id: int) -> np.ndarray:
        """(height, width) bool: where a segment is; all False where it is not in the frame."""
        import numpy as np

        from .coco_masks import decode

        size = (self.rgb.shape[0], self.rgb.shape[1])
        return decode([self.masks[id]], size)[0] if id in self.masks else np.zeros(size, bool)

    def to_supervision(self) -> Any:
        """`supervision.Detections` of the frame: masks, boxes, scores, `class_id`, and ids as `tracker_id`.

        Raises ImportError where supervision is not installed.
        """
        return _detections(self)


@dataclass(frozen=True, slots=True)
class MaskTube:
    """An object with one class through a video, as files have it."""

    category_id: int  # the dataset's
    frames: Sequence[str | None]  # the mask of each frame as COCO run lengths, None where there is none
    score: float = 1.0  # of a prediction, 0..1
    iscrowd: bool = False  # of the truth: matching it is neither right nor wrong


FinishedFrame: TypeAlias = "PanopticFrame | InstanceFrame"


def _detections(frame: PanopticFrame | InstanceFrame) -> Any:
    import numpy as np
    import supervision

    shown = [(segment, frame.mask(id)) for id, segment in sorted(frame.segments.items())]
    shown = [(segment, mask) for segment, mask in shown if mask.any()]
    if not shown:
        return supervision.Detections.empty()
    masks, boxes = np.stack([mask for _, mask in shown]), []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    return supervision.Detections(
        xyxy=np.array(boxes, float),
        mask=masks,
        confidence=np.array([segment.score for segment, _ in shown], float),
        class_id=np.array([segment.category.id for segment, _ in shown], int),
        tracker_id=np.array([segment.id for segment, _ in shown], int),
        data={"class_name": np.array([segment.category.name for segment, _ in shown])},
    )
