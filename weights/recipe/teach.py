"""What the two teachers say of every picture: the best few classes of each cell.

    python teach.py PICTURES FILMS OPINIONS [PART OF]     0.4 s a picture on one thread, 1,700 pictures

The ADE20K teacher sees a picture at two sizes, one of them mirrored, the VOC teacher at one. What is there is kept.
PICTURES holds davis/, coco/, ccp/ and teachers/. Needs `pip install ai-edge-litert`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from sources import pictures
from teachers import DeepLab
from torch import Tensor

ADE_VIEWS, VOC_VIEWS = ((513, False), (641, True)), ((577, False),)  # pixels of the long side, mirrored
ADE_KEPT, VOC_KEPT = 4, 2  # classes of a cell
ADE_CELL, VOC_CELL = 4, 2  # pixels


def prepared(image: npt.NDArray[np.uint8], long: int, mirrored: bool) -> Tensor:
    """(1, 3, H, W) in -1..1 of a BGR picture, sides 16 n + 1."""
    scale = long / max(image.shape[:2])
    height, width = (max(1, round(side * scale / 16)) * 16 + 1 for side in image.shape[:2])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(image, (width, height), interpolation=how)[:, :: -1 if mirrored else 1, ::-1]
    return torch.from_numpy(resized.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


@torch.no_grad()
def opinion(
    net: DeepLab, image: npt.NDArray[np.uint8], views: tuple[tuple[int, bool], ...], cell: int, kept: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Class numbers and probabilities times 255, (kept, h, w) each."""
    size = tuple(-(-side // cell) for side in image.shape[:2])
    total = torch.zeros(1)
    for long, mirrored in views:
        logits = net(prepared(image, long, mirrored).bfloat16()).float()
        logits = logits.flip(3) if mirrored else logits
        total = total + F.softmax(F.interpolate(logits, size, mode="bilinear", align_corners=True), 1)
    shares, numbers = (total[0] / len(views)).topk(kept, 0)
    return numbers.byte().numpy(), (shares * 255).round().byte().numpy()


def main(data: Path, films: Path, out: Path, part: int = 0, of: int = 1) -> None:
    ade, voc = (
        DeepLab(data / "teachers" / name).eval().bfloat16()
        for name in ("ade20k_deeplabv3_mnv2.tflite", "coral_deeplabv3_mnv2_pascal_quant.tflite")
    )
    out.mkdir(parents=True, exist_ok=True)
    for index, picture in enumerate(pictures(data, films)):
        path = out / f"{picture.key}.npz"
        if index % of != part or path.exists():
            continue
        image = np.asarray(cv2.imread(str(picture.path)), np.uint8)
        ai, ap = opinion(ade, image, ADE_VIEWS, ADE_CELL, ADE_KEPT)
        vi, vp = opinion(voc, image, VOC_VIEWS, VOC_CELL, VOC_KEPT)
        beside = path.with_name(f"partial{part}.npz")
        np.savez(beside, ai=ai, ap=ap, vi=vi, vp=vp)
        beside.replace(path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    main(*(Path(name) for name in sys.argv[1:4]), *(int(number) for number in sys.argv[4:6]))
