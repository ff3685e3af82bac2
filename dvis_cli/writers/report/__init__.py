"""A result as a page: `report.html`, the film beside it, and a small picture for lists."""

from dvis_cli.writers.folder import REPORT_FILM, REPORT_PAGE, REPORT_THUMBNAIL

from .page import NO_FILM, Film, ReportPage

__all__ = ["NO_FILM", "REPORT_FILM", "REPORT_PAGE", "REPORT_THUMBNAIL", "Film", "ReportPage"]
