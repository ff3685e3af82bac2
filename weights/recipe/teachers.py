"""The teachers: two DeepLabs of MobileNetV2 as tensors, read from their .tflite files.

    python teachers.py ADE.tflite VOC.tflite START.safetensors [EARLIER.safetensors]

writes the network that the training begins with: both trunks, and of an earlier bundled model what still fits.
Needs `pip install ai-edge-litert`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from layout import CATEGORIES
from torch import Tensor, nn

from dvis_cli.run.loading import read_checkpoint, save_weights
from dvis_cli.run.model import DvisModel
from dvis_cli.segmenter.mobilenet import BLOCKS, CONTEXT, Trunk
from dvis_cli.training.settings import read_recipe

RECIPE = Path(__file__).parent / "dvis-lite.yaml"
Layer = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]  # weight (out, in / groups, h, w), bias


def convolutions(path: Path) -> list[Layer]:
    """All convolutions in the order of computation, integers turned into the numbers they stand for."""
    from ai_edge_litert.interpreter import Interpreter

    reader = Interpreter(str(path), num_threads=1)
    reader.allocate_tensors()
    details = {tensor["index"]: tensor for tensor in reader.get_tensor_details()}

    def numbers(index: int) -> npt.NDArray[np.float32]:
        value, how = reader.get_tensor(index), details[index]["quantization_parameters"]
        if value.dtype == np.float32 or not len(how["scales"]):
            return np.asarray(value, np.float32)
        shape = [1] * value.ndim
        shape[how["quantized_dimension"]] = -1
        scales, zeros = (how[key].astype(np.float64).reshape(shape) for key in ("scales", "zero_points"))
        return np.asarray((value - zeros) * scales, np.float32)

    layers: list[Layer] = []
    integers: dict[int, int] = {}  # output of a DEQUANTIZE -> its input
    for step in reader._get_ops_details():
        inputs, name = [int(i) for i in step["inputs"]], step["op_name"]
        if name == "DEQUANTIZE":
            integers[int(step["outputs"][0])] = inputs[0]
        elif name in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            weight = numbers(integers.get(inputs[1], inputs[1]))
            order = (0, 3, 1, 2) if name == "CONV_2D" else (3, 0, 1, 2)
            layers.append((weight.transpose(order).copy(), numbers(inputs[2])))
        elif name == "MUL":  # batch norm that was not folded: dilated filters
            factor = numbers(inputs[1])
            layers[-1] = (layers[-1][0] * factor[:, None, None, None], layers[-1][1] * factor)
        elif name == "ADD" and details[inputs[1]]["shape"].size == 1:
            layers[-1] = (layers[-1][0], layers[-1][1] + numbers(inputs[1]))
    return layers


def names() -> Iterator[str]:
    """Of a trunk's layers in the order of computation, but for the two views that make the context."""
    yield "stem"
    for index in range(len(BLOCKS)):
        yield from (
            f"blocks.{index}.{part}" for part in (("expand",) if index else ()) + ("depthwise", "project")
        )


class DeepLab(nn.Module):
    """A whole teacher: class logits of a picture."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        layers = convolutions(path)
        of_trunk = list(names())
        views = layers[len(of_trunk) : len(of_trunk) + 3]
        # Both convert the view of the whole picture to a first half of the context's input; the files list them so.
        order = (
            ("whole", "cell", "context") if len(layers) > len(of_trunk) + 4 else ("cell", "whole", "context")
        )
        state = {}
        for name, (weight, bias) in [*zip(of_trunk, layers, strict=False), *zip(order, views, strict=True)]:
            state |= {f"{name}.weight": torch.from_numpy(weight), f"{name}.bias": torch.from_numpy(bias)}
        self.trunk = Trunk()
        self.trunk.load_state_dict(state)
        self.head = nn.ParameterList(
            nn.Parameter(torch.from_numpy(value)) for layer in layers[len(of_trunk) + 3 :] for value in layer
        )
        self.low = torch.empty(0)
        self.trunk.blocks[2].depthwise.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.low = F.relu6(output)

    def forward(self, x: Tensor) -> Tensor:
        """x: (1, 3, H, W) in -1..1, sides 16 n + 1. Logits at stride 16, or 4 of a teacher with a decoder."""
        context = self.trunk(x)[3]
        layers = list(zip(self.head[::2], self.head[1::2], strict=True))
        if len(layers) == 1:
            return F.conv2d(context, *layers[0])
        low = F.relu(F.conv2d(self.low, *layers[0]))
        y = torch.cat(
            [F.interpolate(context, low.shape[2:], mode="bilinear", align_corners=True), low], dim=1
        )
        for depthwise, pointwise in (layers[1:3], layers[3:5]):
            y = F.relu(F.conv2d(y, *depthwise, padding=1, groups=y.shape[1]))
            y = F.relu(F.conv2d(y, *pointwise))
        return F.conv2d(y, *layers[5])


def start(teachers: list[Path], out: Path, earlier: Path | None) -> None:
    """Write a network for `dvis train segmenter --init`."""
    model = read_recipe(RECIPE, "segmenter").model
    assert model is not None
    import dataclasses

    torch.manual_seed(0)
    network = DvisModel(dataclasses.replace(model, mode="minvis", num_classes=len(CATEGORIES)), CATEGORIES)
    for trunk, path in zip(network.segmenter.backbone.trunks, teachers, strict=True):
        trunk.load_state_dict(DeepLab(path).trunk.state_dict())
    taken = 0
    if earlier is not None:
        state = network.state_dict()
        for name, tensor in read_checkpoint(earlier).tensors.items():
            old = tensor.float()
            if (
                "class_head" in name
                or ".backbone." in name
                or name not in state
                or ".pixel_decoder.input_proj" in name
            ):
                continue
            if name.endswith(("query_feat", "query_embed")):
                state[name][: len(old)] = old
            elif state[name].shape == old.shape:
                state[name].copy_(old)
            else:
                continue
            taken += 1
    save_weights(network, out)
    print(
        f"{out}: {taken} tensors of {earlier}, {CONTEXT} channels of context from each of {len(teachers)} teachers"
    )


if __name__ == "__main__":
    start(
        [Path(p) for p in sys.argv[1:3]], Path(sys.argv[3]), Path(sys.argv[4]) if len(sys.argv) > 4 else None
    )
