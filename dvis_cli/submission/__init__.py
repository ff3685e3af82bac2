"""Earlier results in the forms that scoring servers read: VIPSeg, YouTube-VIS and VSPW."""

from dvis_cli.submission.vipseg import ExportedVideo, ExportReport, export_vipseg, find_videos
from dvis_cli.submission.vspw import VspwReport, export_vspw
from dvis_cli.submission.ytvis import YtvisReport, export_ytvis

__all__ = [
    "ExportReport",
    "ExportedVideo",
    "VspwReport",
    "YtvisReport",
    "export_vipseg",
    "export_vspw",
    "export_ytvis",
    "find_videos",
]
