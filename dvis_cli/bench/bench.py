"""One measurement from its settings to its document: peak, networks, files, device, rival."""

from __future__ import annotations

import datetime
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dvis_cli import __version__
from dvis_cli.checkpoints.registry import default_model, known_model, looks_like_file
from dvis_cli.run.loading import categories_of, load_for, ready
from dvis_cli.run.model import DvisModel
from dvis_cli.run.noise import random_model
from dvis_cli.run.options import SegmentOptions
from dvis_cli.run.placement import pick_device, prepare_process

from .files_run import measure_files, trace_files
from .film import write_film
from .machine import facts, forget_peak, matmul_peak
from .network import measure_network
from .options import BenchSettings
from .rivals import Race, race, refuse_unlike

FORMAT, VERSION = "dvis-bench", 1
FRAMES = {"cuda": 120}  # of a film, unless they are named
FRAMES_ELSEWHERE = 6
ROUNDS = {"cuda": 20}  # against transformers
ROUNDS_ELSEWHERE = 3
NETWORK_FRAMES = 48  # at the most: inputs wait on the device


def bench(
    options: SegmentOptions, settings: BenchSettings, say: Callable[[str], None] = lambda stage: None
) -> dict[str, Any]:
    """Measure, and return a document of plain data (docs/performance.md).

    A model that is not on this machine is measured with weights of noise: the arithmetic is the same.

    Raises:
        UsageError: settings that make no sense, or a model that transformers has not.
    """
    prepare_process(options.threads)
    model = _model(options)
    if settings.against:
        refuse_unlike(model.config)
    device, options = model.device, replace(options, overwrite=True)
    frames = settings.frames or FRAMES.get(device.type, FRAMES_ELSEWHERE)
    options = replace(options, max_frames=frames)
    with tempfile.TemporaryDirectory(prefix="dvis-bench-") as folder:
        film = settings.source
        if film is None:
            film = Path(folder) / "film.mp4"
            write_film(film, settings.size, frames)
        say("matrix product")
        peak = matmul_peak(device, model.precision)
        say("networks")
        network = measure_network(model, film, replace(options, max_frames=min(frames, NETWORK_FRAMES)))
        forget_peak(device)
        say("file to files")
        files = measure_files(model, film, options)
        say("device")
        use = trace_files(model, film, options)
    rival = None
    if settings.against:
        say("transformers")
        rounds = min(frames, ROUNDS.get(device.type, ROUNDS_ELSEWHERE))
        size = (network["input"][0], network["input"][1])
        threads = torch.get_num_threads()
        rival = race(
            Race(model.config, str(device), model.precision, size, network["batch"], rounds, threads)
        )
    for stage in (network, *network["stages"]):
        stage["share_of_peak"] = stage["gflop"] / stage["ms"] * 1e3 / peak if stage["ms"] else 0.0
    return {
        "format": FORMAT,
        "version": VERSION,
        "dvis": __version__,
        "date": datetime.date.today().isoformat(),
        "command": " ".join(["dvis", *sys.argv[1:]]),
        "machine": facts(device),
        "model": {
            "name": model.config.name,
            "trained": model.weights is not None,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "precision": model.precision,
            "mode": model.check_mode(options.mode),
        },
        "source": str(settings.source) if settings.source else "film of {} x {}".format(*settings.size),
        "peak_gflops": peak,
        "network": network,
        "files": files,
        "device": use,
        "against": rival,
    }


def _model(options: SegmentOptions) -> DvisModel:
    """The model named; with weights of noise where it is a published one that is not here."""
    name = options.model or default_model()
    if looks_like_file(name) or known_model(name).weights is not None or options.config is not None:
        return load_for(options)
    config = known_model(name).configured
    assert config is not None
    model = random_model(replace(config, mode=options.mode or config.mode), categories_of(config))
    return ready(model, pick_device(options.device), options.precision, options.compile)
