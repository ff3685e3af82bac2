"""Read a weight file without executing anything in it.

Three formats: `.safetensors`; PyTorch's own (`.pth`, `.pt`, `.bin`), through `weights_only`; pickles of numpy
arrays (detectron2's `.pkl`), through an unpickler that knows nothing but arrays. What kind a file is is told by
its first bytes, not by its name. What a file says of sizes is held against its own before memory is taken.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dvis_cli.errors import CheckpointError

from .hf_folder import weight_files

_NESTED = ("model", "state_dict", "model_state_dict")  # keys under which training tools keep the weights
_MAX_TENSORS = 100_000
_MAX_OPCODES = 20_000_000
# What readers raise when a file contradicts itself.
_DAMAGES = (RuntimeError, EOFError, ValueError, TypeError, LookupError, AttributeError, OverflowError,
            AssertionError, zipfile.BadZipFile)  # fmt: skip
_OLD_TORCH = bytes.fromhex("6cfc9c46f920")  # in the magic number that PyTorch < 1.6 begins a file with


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read all tensors of a weight file, on the CPU, under the names in the file.

    Args:
        path: the file, or a folder that transformers' `save_pretrained` wrote.

    Returns:
        tensors by name, and the metadata strings (only `.safetensors` has any).

    Raises:
        CheckpointError: missing, unreadable, not a weight file, or one that wants code to be executed.
    """
    if path.is_dir():
        shards = [read_tensors(file)[0] for file in weight_files(path)]
        return {name: tensor for shard in shards for name, tensor in shard.items()}, {}
    try:
        head = _first_bytes(path)
        if head[:2] == b"PK":
            _check_zip(path)
            return _flatten(_read_torch(path), path), {}
        # A .safetensors file begins with a length of eight bytes and "{"; that length may begin with 80, too.
        if head[:1] == b"\x80" and head[8:9] != b"{":
            return _flatten(_read_pickle(path), path), {}
        return _read_safetensors(path)
    except FileNotFoundError:
        raise CheckpointError(f"weights {path} do not exist") from None
    except OSError as error:
        raise CheckpointError(f"cannot read weights {path}: {error.strerror or error}") from None
    except MemoryError:
        raise CheckpointError(f"weights {path} do not fit in memory") from None


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        head = file.read(32)
    if not head:
        raise CheckpointError(f"weights {path} are an empty file")
    if head.startswith(b"version https://git-lfs."):
        raise CheckpointError(
            f"weights {path} are a git-lfs pointer; fetch the real file with 'git lfs pull'"
        )
    return head


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path} is no weight file we know (.safetensors, .pth, detectron2 .pkl): {error}"
        ) from None


def _check_zip(path: Path) -> None:
    """PyTorch stores its members as they are, so that none can be larger than the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
        raise CheckpointError(f"weights {path} are damaged or not a PyTorch file: {error}") from None
    names = {member.filename for member in members}
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    total = sum(member.file_size for member in members)
    if packed or len(names) != len(members) or total > path.stat().st_size:
        raise CheckpointError(f"weights {path} are no PyTorch file: packed, doubled or oversized members")


def _read_torch(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sparse tensors, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise _refused(path, str(error)) from None
    except _DAMAGES as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"weights {path} are damaged or not a PyTorch file: {reason}") from None


def _refused(path: Path, reason: str) -> CheckpointError:
    first = next((line for line in reason.splitlines() if "GLOBAL" in line or "global" in line), reason)
    return CheckpointError(
        f"weights {path} hold more than tensors and were not opened, because that would execute code from "
        f"the file ({first.strip().splitlines()[0][:160]}); save its state dict as .safetensors"
    )


def _read_pickle(path: Path) -> Any:
    """A pickle that is no zip: numpy arrays, or PyTorch's format of before 1.6."""
    data = path.read_bytes()
    if _OLD_TORCH in data[:16]:
        return _read_torch(path)
    try:
        _check_pickle(data)
        return _ArrayUnpickler(io.BytesIO(data)).load()
    except _NotPlain as refusal:
        raise _refused(path, str(refusal)) from None
    except (pickle.UnpicklingError, RecursionError, *_DAMAGES) as error:
        raise CheckpointError(f"weights {path} are a damaged pickle: {error}") from None


def _check_pickle(data: bytes) -> None:
    """Refuse lengths beyond the end of the file, and numbers of the memo that would make it a table of gigabytes."""
    for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(data))):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > 16 * (count + 64):
            raise ValueError(f"memo number {argument} after {count} steps")
        if count > _MAX_OPCODES:
            raise ValueError(f"more than {_MAX_OPCODES} steps")


class _NotPlain(pickle.UnpicklingError):
    """The pickle names something that is not an array."""


class _Array:
    """Stands in for `numpy.ndarray` while a pickle is read; checked before any memory is taken.

    A pickle makes an array in two steps: an empty one, then a state of (version, shape, dtype, order, bytes).
    """

    def __init__(self, *_ignored: Any) -> None:
        self.array: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, "F" if fortran else "C")

    def fill(self, data: Any, dtype: Any, shape: Any, order: Literal["C", "F"]) -> None:
        """Check that the parts belong together, then take them over."""
        if not isinstance(dtype, np.dtype) or dtype.kind not in "fiub" or dtype.hasobject:
            raise _NotPlain(f"array of type {dtype}")
        if not isinstance(data, (bytes, bytearray)):
            raise _NotPlain("array of Python objects")
        if math.prod(shape) * dtype.itemsize != len(data):
            raise _NotPlain(f"array of shape {shape} with {len(data)} bytes")
        self.array = np.frombuffer(data, dtype).reshape(shape, order=order)


def _array_from_buffer(data: Any, dtype: Any, shape: Any, order: Literal["C", "F"], *_axes: Any) -> _Array:
    """How pickle protocol 5 makes arrays, in one step."""
    made = _Array()
    made.fill(data, dtype, shape, order)
    return made


def _dtype(name: str, *_flags: Any) -> np.dtype:
    """A data type of plain numbers; a copy, because the pickle goes on to set its byte order."""
    if not isinstance(name, str) or len(name) > 4 or np.dtype(name).kind not in "fiub":
        raise _NotPlain(f"array of type {name!r}")
    return np.dtype(np.dtype(name), copy=True)


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): lambda text, encoding="latin1": text.encode("latin1"),
    ("__builtin__", "bytes"): lambda: b"",
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _dtype,
    **{
        (f"numpy.{core}.{name}", function): stand_in
        for core in ("core", "_core")  # numpy 1 and 2
        for name, function, stand_in in (
            ("multiarray", "_reconstruct", _Array),
            ("multiarray", "scalar", lambda dtype, data: np.frombuffer(data, dtype, count=1)[0]),
            ("numeric", "_frombuffer", _array_from_buffer),
        )
    },
}


class _ArrayUnpickler(pickle.Unpickler):
    """Builds dicts, lists, strings, numbers and arrays; anything else is refused before it can run."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise _NotPlain(f"global {module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:
        raise _NotPlain("persistent object")


def _flatten(document: Any, path: Path) -> dict[str, Tensor]:
    """Find the mapping of tensors in what a file held."""
    for key in _NESTED:
        if isinstance(document, Mapping) and isinstance(document.get(key), Mapping):
            document = document[key]
            break
    if not isinstance(document, Mapping):
        raise CheckpointError(f"weights {path} hold {type(document).__name__}, expected tensors by name")
    tensors = {}
    for name, value in document.items():
        tensor = _as_tensor(value)
        if tensor is not None and isinstance(name, str):
            _refuse_hollow(tensor, name, path)
            tensors[name.removeprefix("module.")] = tensor
    if not tensors:
        raise CheckpointError(f"weights {path} hold no tensors")
    if len(tensors) > _MAX_TENSORS:
        raise CheckpointError(f"weights {path} hold {len(tensors)} tensors, more than {_MAX_TENSORS}")
    return tensors


def _refuse_hollow(tensor: Tensor, name: str, path: Path) -> None:
    """A tensor may not claim more numbers than the file stores for it: a copy of it would take that memory."""
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise CheckpointError(f"weights {path}: {name[:100]} is no plain tensor")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(
            f"weights {path}: {name[:100]} claims {list(tensor.shape)}, more than is stored"
        )


def _as_tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, _Array) and value.array is not None:
        native = value.array.dtype.newbyteorder("=")
        return torch.from_numpy(np.array(value.array, dtype=native))
    return None
