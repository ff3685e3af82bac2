"""A name or a file to a model that is ready to run."""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dvis_cli.checkpoints.detectron2 import config_from_detectron2, is_detectron2
from dvis_cli.checkpoints.files import read_tensors
from dvis_cli.checkpoints.hf_folder import folder_facts
from dvis_cli.checkpoints.huggingface import is_huggingface, to_official_names
from dvis_cli.checkpoints.keymap import is_ignored, to_official, to_ours
from dvis_cli.checkpoints.label_sets import (
    LABEL_SETS,
    VIDEOMT_SIDES,
    Facts,
    facts_of,
    label_set,
    label_sets_of,
)
from dvis_cli.checkpoints.metadata import CATEGORIES_KEY, CONFIG_KEY, config_inside
from dvis_cli.checkpoints.registry import KnownModel, default_model, known_model, looks_like_file
from dvis_cli.checkpoints.shapes import config_from_shapes
from dvis_cli.config import (
    Mode,
    ModelConfig,
    VideoMTConfig,
    ViTAdapterConfig,
    load_yaml,
    model_config,
    to_document,
)
from dvis_cli.datasets.categories import load_categories, parse_label_set, vipseg_categories
from dvis_cli.errors import CheckpointError, ConfigError, DvisWarning, OutputError, UsageError
from dvis_cli.files import atomic_path
from dvis_cli.structures import Category

from .compiled import CompiledSegmenter
from .model import DvisModel, refuse_missing_parts
from .noise import random_model
from .options import Compile, Precision, SegmentOptions
from .placement import forbid_tf32, pick_compile, pick_device, pick_precision

_STAGES = {"minvis": ("segmenter.",), "online": ("segmenter.", "tracker."), "offline": ("",)}
_SHOWN = 6  # names listed of each kind of mismatch


def load_model(
    model: str | Path | None = None,
    *,
    config: str | Path | None = None,
    mode: Mode | None = None,
    device: str = "auto",
    precision: Precision = "auto",
    classes_of: str | None = None,
    compile: Compile = "off",
) -> DvisModel:
    """Load a model for inference.

    Args:
        model: a registered name (`dvis models` lists them) or a weight file; None is the default model.
        config: a YAML of ours or of the official code; None infers the model from the file's tensors.
        mode: leave out what this mode does not need; None keeps the most that the weights can do.
        device: "auto" (CUDA, else the CPU), "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32" (without TF32 in the whole process), "bf16" (segmenter under autocast), or "auto": bf16 on a
            GPU that has it.
        classes_of: name of the class list, for weights that do not say which; None takes the registry's or guesses.
        compile: "auto" compiles the segmenter, on a GPU, for sizes of video that come often (`run/compiled.py`).

    Raises:
        UsageError: unknown name, device, mode or class list.
        ConfigError: the YAML is wrong.
        CheckpointError: the weights cannot be read or do not fit.
    """
    where = pick_device(device)
    loaded = _load(str(model) if model is not None else default_model(), config, mode, classes_of)
    return ready(loaded, where, precision, compile)


def ready(
    model: DvisModel, device: torch.device, precision: Precision = "auto", compile: Compile = "off"
) -> DvisModel:
    """The model on its device, to run as `load_model` says."""
    model.precision = pick_precision(precision, device)
    if device.type == "cuda" and model.precision == "fp32":
        forbid_tf32()
    model.eval().requires_grad_(False).to(device)
    if pick_compile(compile, device):
        model.compiled = CompiledSegmenter(model.segmenter)
    return model


def load_for(options: SegmentOptions) -> DvisModel:
    """The model that the options name; raises what `load_model` does."""
    return load_model(
        options.model,
        config=options.config,
        mode=options.mode,
        device=options.device,
        precision=options.precision,
        classes_of=options.classes_of,
        compile=options.compile,
    )


def _load(model: str, config: str | Path | None, mode: Mode | None, classes_of: str | None) -> DvisModel:
    given = read_config(Path(config)) if config is not None else None
    if looks_like_file(model):
        return _from_file(Path(model).expanduser(), given, mode, classes_of=classes_of)
    known = known_model(model)
    if known.untrained:
        chosen = _narrowed(given or known.config, mode)
        return random_model(chosen, categories_of(chosen))
    if known.weights is None:
        raise UsageError(not_here(known))
    return _from_file(known.weights, given or known.configured, mode, known.facts, classes_of)


def not_here(known: KnownModel) -> str:
    """How to get a model that is not on this machine."""
    if known.published is not None:
        return f"model {known.name!r} is not on this machine: 'dvis weights pull {known.name}' fetches it"
    return (
        f"model {known.name!r} has no weights on this machine: give the published file its name with "
        f"'dvis weights add FILE --as {known.name}', or name the file itself with --model FILE"
    )


def read_config(path: Path) -> ModelConfig:
    """Read a YAML of either style."""
    document = load_yaml(path)
    if is_detectron2(document):
        return config_from_detectron2(document, path)
    return model_config({"name": path.stem, **document}, f"config {path}")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A weight file, read and understood but not yet a network."""

    path: Path
    tensors: dict[str, Tensor]  # by our names
    unknown: list[str]  # the file's names of tensors that no network of ours has
    inferred: ModelConfig  # what the tensors alone determine
    config: ModelConfig  # the configuration inside the file, else what was inferred
    categories: tuple[Category, ...] | None  # the class list inside the file, None when it has none
    configured: bool = False  # whether a configuration is inside


def read_checkpoint(path: Path, facts: Facts | None = None, classes_of: str | None = None) -> Checkpoint:
    """Read weights of ours, of the official code, or of transformers.

    Args:
        facts: what is known of the model; what it leaves open is read beside the file or guessed from its classes.
        classes_of: name of the class list, which wins over every other.

    Raises:
        CheckpointError: unreadable, or of names that no model of ours has.
    """
    tensors, metadata = read_tensors(path)
    theirs = is_huggingface(tensors)
    if theirs:
        tensors = to_official_names(tensors, path)
    ours, unknown = _our_names(tensors)
    inferred = config_from_shapes({to_official(n): tuple(t.shape) for n, t in ours.items()}, path)
    inside, categories = config_inside(metadata, path), _categories_from_metadata(metadata, path)
    known = facts or Facts()
    if classes_of is not None:
        known = _facts_of(classes_of, inferred).over(known)
        categories = known.categories
    if inside is not None:
        return Checkpoint(path, ours, unknown, inferred, inside, categories, configured=True)
    if theirs:
        beside = folder_facts(path if path.is_dir() else path.parent, inferred.num_classes)
        # The names in the folder win; whether they are counted, the registry knows better.
        known = known.over(beside) if known.categories is None else known.renamed(beside)
    if categories is None and known.categories is None:
        known = known.over(_guessed(inferred, path))
    return Checkpoint(path, ours, unknown, inferred, known.applied(inferred), categories or known.categories)


def _guessed(inferred: ModelConfig, path: Path) -> Facts:
    """The public class list of as many classes, with a warning; VIPSeg's is what dvis is for."""
    names, told = label_sets_of(inferred.num_classes, path.name)
    if not names or names[0] == "vipseg":
        return Facts()
    others = "" if len(names) == 1 else f" and not for those of {' or '.join(names[1:])}"
    why = "as its name says" if told else "a choice, because no tensor tells" if others else "by their number"
    warnings.warn(
        f"{path.name}: {inferred.num_classes} classes are taken for those of {names[0]}{others}, {why}; "
        "--classes-of sets others",
        DvisWarning,
        stacklevel=2,
    )
    return _facts_of(names[0], inferred)


def _facts_of(classes: str, inferred: ModelConfig) -> Facts:
    """What a class list tells of a model of these sizes. Raises `UsageError` where it is of another length."""
    count = len(label_set(classes))
    if count != inferred.num_classes:
        raise UsageError(
            f"--classes-of {classes}: that list has {count} classes, the weights {inferred.num_classes}"
        )
    return facts_of(classes, short_side=VIDEOMT_SIDES.get(classes) if inferred.family == "videomt" else None)


def _from_file(
    path: Path,
    config: ModelConfig | None,
    mode: Mode | None,
    facts: Facts | None = None,
    classes_of: str | None = None,
) -> DvisModel:
    checkpoint = read_checkpoint(path, facts, classes_of)
    # A configuration that names a class list is followed; one that does not leaves it to the file.
    said = categories_of(config) if config is not None and config.categories and classes_of is None else None
    config = _with_sizes(config or checkpoint.config, checkpoint.inferred)
    # What the tensors lack comes before what the configuration lacks.
    refuse_missing_parts(mode or config.mode, checkpoint.inferred, f"weights {path}")
    config = _narrowed(config, mode)
    named = said or checkpoint.categories
    if not named and _numbered(config):
        warnings.warn(
            f"{path.name}: its {config.num_classes} classes have no names: they are numbered, and all are things; "
            "--classes-of names them, or categories in a --config",
            DvisWarning,
            stacklevel=2,
        )
    with torch.device("meta"):
        network = DvisModel(config, named or categories_of(config))
    prefixes = _STAGES[config.mode]
    ours = {name: tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefixes)}
    _refuse_mismatch(network, ours, checkpoint.unknown, path)
    fitting = {n: t.to(torch.float32) if t.is_floating_point() else t for n, t in ours.items()}
    broken = [to_official(name) for name, tensor in fitting.items() if not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"weights {path} are spoilt: {len(broken)} tensors hold NaN or infinity, the first: {broken[0]}"
        )
    network.load_state_dict(fitting, assign=True)
    network.weights = str(path)
    return network


def _with_sizes(config: ModelConfig, inferred: ModelConfig) -> ModelConfig:
    """An official configuration names the size of a vision transformer, but does not tell it: the tensors do."""
    of_kind = isinstance(config.backbone, type(inferred.backbone))
    if of_kind and isinstance(config.backbone, (ViTAdapterConfig, VideoMTConfig)):
        return dataclasses.replace(config, backbone=inferred.backbone)
    return config


def inspect_weights(path: Path, facts: Facts | None = None) -> dict[str, Any]:
    """What a weight file or folder holds: kind, sizes, parameters. Raises `CheckpointError`."""
    checkpoint = read_checkpoint(path, facts)
    found = checkpoint.inferred
    return {
        "file": str(path),
        "mode": found.mode,
        "backbone": to_document(found.backbone),
        "family": found.family,
        "channels": found.track_channels,
        "queries": found.queries,
        "classes": found.num_classes,
        "parameters": sum(t.numel() for t in checkpoint.tensors.values()),
        "tensors": len(checkpoint.tensors),
        "unknown": checkpoint.unknown,
        "config_inside": checkpoint.configured,
    }


def _our_names(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Rename; returns the tensors that we know and the names of those that we do not."""
    ours: dict[str, Tensor] = {}
    unknown = []
    for official, tensor in tensors.items():
        if is_ignored(official):
            continue
        name = to_ours(official)
        if name is None:
            unknown.append(official)
        else:
            ours[name] = tensor
    return ours, unknown


def _narrowed(config: ModelConfig, mode: Mode | None) -> ModelConfig:
    """The configuration for the mode that was named. Raises `UsageError` when it has no part for it."""
    if mode is None:
        return config
    refuse_missing_parts(mode, config, f"model {config.name!r}")
    return dataclasses.replace(config, mode=mode)


def _categories_from_metadata(metadata: dict[str, str], path: Path) -> tuple[Category, ...] | None:
    if CATEGORIES_KEY not in metadata:
        return None
    try:
        return parse_label_set(json.loads(metadata[CATEGORIES_KEY]), f"the class list inside {path}")
    except (ValueError, RecursionError):
        raise CheckpointError(f"weights {path}: the class list inside is not valid JSON") from None


def _refuse_mismatch(network: nn.Module, ours: dict[str, Tensor], unknown: list[str], path: Path) -> None:
    """Compare names and shapes, and report all that is wrong at once, in the file's own names."""
    expected = network.state_dict()
    missing = [to_official(name) for name in expected if name not in ours]
    unexpected = [to_official(name) for name in ours if name not in expected] + unknown
    shapes = [
        f"{to_official(name)} {list(ours[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in ours and ours[name].shape != tensor.shape
    ]
    if not (missing or unexpected or shapes):
        return
    parts = [
        f"{len(names)} {kind} ({'; '.join(names[:_SHOWN])}{'; ...' if len(names) > _SHOWN else ''})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    raise CheckpointError(
        f"weights {path} do not fit the model: {', '.join(parts)}; is it the right --config?"
    )


def _numbered(config: ModelConfig) -> bool:
    """Whether nothing is known of the names of its classes."""
    return config.categories is None and config.num_classes != len(vipseg_categories())


def categories_of(config: ModelConfig) -> tuple[Category, ...]:
    """The label set of a model: its own file, VIPSeg's, or plain numbers when nothing is known."""
    if _numbered(config):
        return tuple(Category(i, f"class {i}", True, (0, 0, 0)) for i in range(config.num_classes))
    named = config.categories or "vipseg"
    categories = label_set(named) if named in LABEL_SETS else load_categories(Path(named))
    if len(categories) != config.num_classes:
        raise ConfigError(
            f"the label set {named!r} has {len(categories)} classes, model {config.name!r} {config.num_classes}"
        )
    return categories


def official_state(network: DvisModel) -> dict[str, Tensor]:
    """The weights under the names of the official code, ready to be saved."""
    return {to_official(name): tensor.contiguous() for name, tensor in network.state_dict().items()}


def save_weights(
    network: DvisModel, path: Path, more: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write a `.safetensors` file; appears whole or not at all.

    Args:
        network: its configuration and class list go into the file's metadata.
        path: the file.
        more: further metadata.
        half: keep numbers as float16: half the size, relative error up to 2^-11.

    Raises:
        CheckpointError: a weight is too large for float16.
        OutputError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    state = official_state(network)
    if half:
        state = {name: _halved(name, tensor) for name, tensor in state.items()}
    metadata = {
        CONFIG_KEY: json.dumps(to_document(network.config)),
        CATEGORIES_KEY: json.dumps([dataclasses.asdict(category) for category in network.categories]),
        **(more or {}),
    }
    with atomic_path(path) as partial:
        partial.touch()  # the library would make it unreadable for others
        permissions = partial.stat().st_mode
        try:
            save_file(state, partial, metadata=metadata)
        except SafetensorError as error:  # the library's own, without a number
            raise OutputError(f"cannot write {path}: {error}") from None
        partial.chmod(permissions)


def _halved(name: str, tensor: Tensor) -> Tensor:
    if not tensor.is_floating_point():
        return tensor
    largest = float(tensor.abs().max()) if tensor.numel() else 0.0
    if not largest <= torch.finfo(torch.float16).max:
        raise CheckpointError(
            f"{name} holds {largest:.6g}, which float16 cannot: keep these weights in float32"
        )
    return tensor.to(torch.float16)
