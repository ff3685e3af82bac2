"""What a model is, as data: frozen dataclasses, read from YAML, unknown keys refused.

One YAML per published model lies in `checkpoints/models/`. `detectron2`-style files are translated by
`checkpoints/detectron2.py`; what a checkpoint's tensors alone determine is read by
`checkpoints/shapes.py`.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union

from .errors import ConfigError

Built = typing.TypeVar("Built")
Mode = Literal["minvis", "online", "offline"]
MODES: tuple[Mode, ...] = typing.get_args(Mode)  # each includes the parts of the one before
TaskName = Literal["panoptic", "instance", "semantic"]
TASKS: tuple[TaskName, ...] = typing.get_args(TaskName)
HEAD = 64  # channels of a head of every DINOv2 vision transformer


@dataclass(frozen=True)
class ResNetConfig:
    """ResNet with bottleneck blocks; the defaults are ResNet-50."""

    kind: Literal["resnet"] = "resnet"
    blocks: tuple[int, ...] = (3, 4, 6, 3)  # per stage
    stem_channels: int = 64
    bottleneck_channels: int = 64  # of the first stage; doubles at each stage, outputs are four times that


@dataclass(frozen=True)
class SwinConfig:
    """Swin transformer; the defaults are Swin-T."""

    kind: Literal["swin"] = "swin"
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7  # cells a side
    drop_path: float = 0.3  # stochastic depth of the last block while training


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """EfficientNet-Lite: inverted bottlenecks without squeeze-and-excitation; the defaults are Lite0."""

    kind: Literal["efficientnet_lite"] = "efficientnet_lite"
    stem_channels: int = 32
    channels: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)  # of the seven stages
    blocks: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)  # per stage


@dataclass(frozen=True)
class MobileNetV2Config:
    """MobileNetV2 with DeepLab's context, or several of them side by side."""

    kind: Literal["mobilenet_v2"] = "mobilenet_v2"
    trunks: int = 1  # networks whose features are put side by side


@dataclass(frozen=True)
class ViTAdapterConfig:
    """DINOv2 vision transformer with the adapter of DVIS++; the defaults are ViT-L. Heads have 64 channels."""

    kind: Literal["vit_adapter"] = "vit_adapter"
    channels: int = 1024
    blocks: int = 24  # a multiple of four
    hidden: int = 4096  # of a block's perceptron
    grid: int = 37  # side of the learned position grid
    prior_channels: int = 64  # of the convolutions beside the transformer, at stride 4
    extractor_heads: int = 16
    extractor_hidden: int = 256


@dataclass(frozen=True)
class VideoMTConfig:
    """VidEoMT: a vision transformer that is the whole segmenter and keeps its queries from frame to frame.

    The defaults are ViT-L for VIPSeg. Heads have 64 channels. `pixel_decoder`, `query_decoder` and `tracker` of a model
    with it do not count.
    """

    kind: Literal["videomt"] = "videomt"
    channels: int = 1024  # of a query and of the mask features
    blocks: int = 24
    query_blocks: int = 4  # the last ones, in which the queries take part
    queries: int = 200
    grid: int = 80  # side of the learned position grid
    registers: int = 4
    patch: int = 16  # pixels a side


@dataclass(frozen=True)
class PixelDecoderConfig:
    """Deformable encoder and FPN step."""

    channels: int = 256
    mask_channels: int = 256
    layers: int = 6
    heads: int = 8
    points: int = 4  # sampled per head and level
    ffn: int = 1024
    # Whether a learned share of each cell's position is added to the levels and the mask features: a small network that
    # learned classes from elsewhere tells objects of one class apart sooner. Published models have none.
    located: bool = False


@dataclass(frozen=True)
class QueryDecoderConfig:
    """Masked-attention decoder. Its `channels` are also those of the tracker and refiner; in DVIS++ half of those."""

    channels: int = 256
    queries: int = 100
    layers: int = 9
    heads: int = 8
    ffn: int = 2048
    # Of the re-identification head that makes a model one of DVIS++; 0: DVIS, no such head.
    reid_hidden: int = 0


@dataclass(frozen=True)
class TrackerConfig:
    """Referring tracker."""

    layers: int = 6
    heads: int = 8
    ffn: int = 2048
    # How the last frame's queries are matched to this frame's: "published" is what published checkpoints were trained
    # with (the inverse permutation, docs/method.md), "direct" is equation 1 of the report; "tracks" matches this
    # frame's queries to the tracker's last output instead, so that what it has put right stays right; "memory" to what
    # each row held in the frames before (tracker/memory.py), so that an object which was missed for a while is found.
    matching: Literal["published", "direct", "tracks", "memory"] = "published"


@dataclass(frozen=True)
class RefinerConfig:
    """Temporal refiner."""

    layers: int = 6
    heads: int = 8
    ffn: int = 2048
    # Share of the refiner in the masks, the rest is the tracker's. 1 is the report's. The two go wrong in different
    # frames, so the mean of a refiner that learned little and its tracker can be better than either.
    blend: float = 1.0
    # Frames over which it is judged whether a track is there: in a frame in which the segmenter, on the mean of so many
    # around it, takes the matched queries for nothing, the track's mask is empty. 0: never judged, as published.
    presence: int = 0


@dataclass(frozen=True)
class InputConfig:
    """How frames reach the network."""

    short_side: int = 720  # pixels after resizing
    long_side: int = 1333  # pixels at the most, wins over short_side
    divisor: int = 32  # zero padding at the bottom and right to a multiple of this
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # RGB, 0..255
    std: tuple[float, ...] = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class DecisionConfig:
    """From queries to segments (docs/method.md)."""

    mode: Mode | None = None  # that is run unless options differ; None: the most that the model can do
    score_threshold: float = 0.8  # a query below this class probability is dropped
    overlap_threshold: float = 0.8  # a query that wins less than this share of its own mask is dropped
    # Frames that are refined and decided together unless options differ; 300 is the official demo's. A track that is
    # there for a small part of them is outvoted by the frames without it, so a model learned on short clips wants less.
    window: int = 300


Backbone = (
    ResNetConfig | SwinConfig | EfficientNetLiteConfig | MobileNetV2Config | ViTAdapterConfig | VideoMTConfig
)
Family = Literal["dvis", "dvis++", "videomt"]


@dataclass(frozen=True)
class ModelConfig:
    """A whole model."""

    name: str = "custom"
    description: str = ""
    mode: Mode = "offline"  # the most that the model can do: minvis < online < offline
    backbone: Backbone = field(default_factory=ResNetConfig)
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    query_decoder: QueryDecoderConfig = field(default_factory=QueryDecoderConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    refiner: RefinerConfig = field(default_factory=RefinerConfig)
    num_classes: int = 124
    categories: str | None = None  # "vipseg", a JSON file of categories, or None: VIPSeg's if 124 classes
    input: InputConfig = field(default_factory=InputConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)

    def __post_init__(self) -> None:
        _check(self)

    @property
    def family(self) -> Family:
        """Which of the three kinds of networks it is (docs/method.md)."""
        if isinstance(self.backbone, VideoMTConfig):
            return "videomt"
        return "dvis++" if self.query_decoder.reid_hidden else "dvis"

    @property
    def queries(self) -> int:
        """Q."""
        return (self.backbone if isinstance(self.backbone, VideoMTConfig) else self.query_decoder).queries

    @property
    def track_channels(self) -> int:
        """Channels of a query in the tracker and the refiner."""
        if isinstance(self.backbone, VideoMTConfig):
            return self.backbone.channels
        return self.query_decoder.channels * (2 if self.family == "dvis++" else 1)

    @property
    def mask_channels(self) -> int:
        """Channels of the mask features."""
        video = self.backbone if isinstance(self.backbone, VideoMTConfig) else None
        return video.channels if video else self.pixel_decoder.mask_channels


def _check(config: ModelConfig) -> None:
    """Refuse sizes that no network can be built from, with the names of the two that disagree."""
    _check_transformer(config.backbone)
    decoder = config.query_decoder
    for label, channels, heads in (
        ("query_decoder", decoder.channels, decoder.heads),
        ("pixel_decoder", config.pixel_decoder.channels, config.pixel_decoder.heads),
        ("tracker", config.track_channels, config.tracker.heads),
        ("refiner", config.track_channels, config.refiner.heads),
    ):
        if heads < 1 or channels % heads:
            raise ConfigError(f"{label}: {channels} channels cannot be split over heads={heads}")
    if config.pixel_decoder.channels % 32:
        raise ConfigError(
            f"pixel_decoder.channels={config.pixel_decoder.channels} must be a multiple of 32 (group norm)"
        )
    for label in ("score_threshold", "overlap_threshold"):
        value = getattr(config.decision, label)
        if not 0 <= value <= 1:
            raise ConfigError(f"decision.{label}={value} must lie in 0..1")
    if not 0 <= config.refiner.blend <= 1:
        raise ConfigError(f"refiner.blend={config.refiner.blend} must lie in 0..1")
    if config.refiner.blend < 1 and config.family == "dvis++":
        raise ConfigError(
            "refiner.blend: the tracker of DVIS++ has mask features of its own, so it must be 1"
        )
    if config.refiner.presence < 0 or (config.refiner.presence and config.refiner.presence % 2 == 0):
        raise ConfigError(f"refiner.presence={config.refiner.presence} must be 0 or an odd number of frames")
    if config.decision.window < 1:
        raise ConfigError(f"decision.window={config.decision.window} must be at least 1 frame")
    if config.num_classes < 1:
        raise ConfigError(f"num_classes={config.num_classes} must be at least 1")


def _check_transformer(backbone: Backbone) -> None:
    """The sizes that a vision transformer needs to be divisible."""
    if not isinstance(backbone, (ViTAdapterConfig, VideoMTConfig)):
        return
    if backbone.channels < 1 or backbone.channels % HEAD:
        raise ConfigError(f"backbone.channels={backbone.channels} must be a multiple of {HEAD} (a head)")
    if isinstance(backbone, ViTAdapterConfig):
        if backbone.blocks < 4 or backbone.blocks % 4:
            raise ConfigError(f"backbone.blocks={backbone.blocks} must be a multiple of 4 (interactions)")
        heads = backbone.extractor_heads
        if heads < 1 or backbone.channels % heads:
            raise ConfigError(
                f"backbone: {backbone.channels} channels cannot be split over extractor_heads={heads}"
            )
    elif not 0 < backbone.query_blocks <= backbone.blocks:
        raise ConfigError(
            f"backbone.query_blocks={backbone.query_blocks} must lie in 1..blocks={backbone.blocks}"
        )
    elif backbone.patch not in (8, 16, 32):
        raise ConfigError(f"backbone.patch={backbone.patch} pixels: choose 8, 16 or 32")


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that must hold a mapping. Raises `ConfigError` in one line."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"config {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"config {path} cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        raise ConfigError(f"config {path} is not valid YAML{line}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"config {path} holds {type(document).__name__}, expected a mapping of options")
    return document


def merged(base: Any, over: Any, where: str) -> dict[str, Any]:
    """`base` with the values of `over`, mapping by mapping. Raises `ConfigError` beginning with `where`."""
    if not isinstance(over, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {over!r}")
    made: dict[str, Any] = dict(base)
    for key, value in over.items():
        inner = made.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        made[key] = merged(inner, value, where) if both else value
    return made


def model_config(document: Mapping[str, Any], where: str = "config") -> ModelConfig:
    """Build a `ModelConfig` from nested mappings. Raises `ConfigError` naming the key that is wrong."""
    return build_config(ModelConfig, document, where)


def build_config(kind: type[Built], document: Any, where: str) -> Built:
    """Build a frozen dataclass from nested mappings. Raises `ConfigError` naming the key that is wrong."""
    return typing.cast(Built, _build(kind, document, where))


def to_document(config: Any) -> dict[str, Any]:
    """The inverse of `model_config`: nested plain data, ready for YAML or JSON."""
    return typing.cast("dict[str, Any]", _plain(dataclasses.asdict(config)))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _build(kind: type, document: Any, where: str) -> Any:
    """One dataclass from one mapping."""
    if not isinstance(document, Mapping):
        raise ConfigError(f"{where}: expected a mapping, got {document!r}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]
    unknown = [str(key) for key in document if key not in names]
    if unknown:
        raise ConfigError(f"{where}: unknown key {', '.join(unknown)}; known keys: {', '.join(names)}")
    values = {key: _convert(hints[key], value, f"{where}.{key}") for key, value in document.items()}
    return kind(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check one value against its annotation, turning lists into tuples and whole numbers into floats."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and hasattr(hint, "__dataclass_fields__"):
        return _build(hint, value, where)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{where}={value!r}: choose one of {', '.join(map(str, arguments))}")
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigError(f"{where}={value!r}: expected a list")
        return tuple(_convert(arguments[0], item, where) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where}={value!r}: expected {hint.__name__}")
    return value


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """`X | None`, or one of several dataclasses told apart by their `kind`."""
    if value is None and type(None) in choices:
        return None
    kinds: dict[str, type] = {c.kind: c for c in choices if hasattr(c, "kind")}
    if not kinds:
        return _convert(next(c for c in choices if c is not type(None)), value, where)
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind not in kinds:
        raise ConfigError(f"{where}.kind={kind!r}: choose one of {', '.join(kinds)}")
    return _build(kinds[kind], value, where)
