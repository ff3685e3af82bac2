"""Scores on held-out videos while training goes on, by the code that segments and evaluates."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from dvis_cli.challenge.scoring import evaluate
from dvis_cli.challenge.split import segment_split
from dvis_cli.datasets.vipseg import VIPSeg
from dvis_cli.errors import TrainingError
from dvis_cli.run.model import DvisModel

WINDOWS = (1, 2, 4, 6)  # frames a tube; the columns of the report's tables


class HeldOut:
    """The first videos of the validation split."""

    def __init__(self, data: Path, split: str, videos: int) -> None:
        self.dataset = VIPSeg.open(data, split)
        self.dataset.videos = self.dataset.videos[:videos]

    def scores(self, network: DvisModel) -> dict[str, float]:
        """VPQ in percent by tube length, as `vpq1`, `vpq2`, ..., and their mean as `vpq`.

        The network runs in its own mode; it comes back in training mode where it was.
        """
        training = [part for part in network.modules() if part.training]
        folder = Path(tempfile.mkdtemp(prefix="dvis-validation-"))
        try:
            report = segment_split(self.dataset, folder / "run", network.eval())
            if report.failed:
                video, why = next(iter(report.failed.items()))
                raise TrainingError(f"validation video '{video}' failed: {why}")
            result = evaluate(folder / "run", self.dataset, ["vpq"], WINDOWS).results["vpq"]
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            for part in training:
                part.training = True
        scores = {"vpq": result.mean()} | {f"vpq{window}": result.mean([window]) for window in WINDOWS}
        return {name: score for name, score in scores.items() if score is not None}
