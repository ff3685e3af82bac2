"""Predictions + ground truth -> VPQ and STQ, and the tables made of them."""

from dvis_cli.evaluation.scoring import METRICS, Evaluation, check_metrics, evaluate
from dvis_cli.evaluation.tables import headline, score_document, write_csv

__all__ = ["METRICS", "Evaluation", "check_metrics", "evaluate", "headline", "score_document", "write_csv"]
