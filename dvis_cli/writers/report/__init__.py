"""A result as a page: `report.html`, the film beside it, and a small picture for lists."""

from .page import NO_FILM, REPORT_FILM, REPORT_PAGE, REPORT_THUMBNAIL, Film, ReportPage

__all__ = ["NO_FILM", "REPORT_FILM", "REPORT_PAGE", "REPORT_THUMBNAIL", "Film", "ReportPage"]
