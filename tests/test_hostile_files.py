"""Files made to do harm: each is refused in one line, runs nothing, and takes no memory to speak of."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from goldens import FOLDER
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dvis_cli.errors import CheckpointError, DvisError, DvisWarning, OutputError
from dvis_cli.run.loading import inspect_weights, load_model, official_state, save_weights

MARK = Path(os.environ.get("TMPDIR", "/tmp")) / f"dvis-canary-{os.getpid()}"
TOUCH = f"import pathlib; pathlib.Path({str(MARK)!r}).touch()"
GOLDEN = FOLDER / "r50" / "weights_offline.safetensors"
HUGE = 2**40


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.parts = function, arguments

    def __reduce__(self):
        return self.parts


def globals_(name: str, argument: str) -> bytes:
    """A pickle by hand: look `module name` up, call it with a string."""
    return b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n" + b"X" + struct.pack(
        "<I", len(argument)
    ) + argument.encode() + b"\x85R."  # fmt: skip


def plain(payload: object, protocol: int = 2) -> bytes:
    return pickle.dumps({"model": {"w": np.zeros(2, np.float32), "x": payload}}, protocol)


def old_torch(payload: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"w": torch.zeros(2), "x": payload}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def new_torch(data: bytes | None = None, more: dict[str, bytes] | None = None, compression: int = 0) -> bytes:
    """PyTorch's zip with another pickle in it, or further members."""
    good, made = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.zeros(8)}, good)
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(made, "w", compression) as target:
        for item in source.infolist():
            swap = data is not None and item.filename.endswith("data.pkl")
            target.writestr(item.filename, data if swap and data is not None else source.read(item))
        for name, content in (more or {}).items():
            target.writestr(name, content)
    return made.getvalue()


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def hollow(**tensors: torch.Tensor) -> bytes:
    """PyTorch's file with views that claim more than is stored."""
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def array(shape: bytes) -> bytes:
    """A pickled array of 6 numbers whose shape was replaced."""
    raw = pickle.dumps({"w": np.zeros((2, 3), np.float32)}, 2)
    assert raw.count(b"K\x02K\x03\x86") == 1
    return raw.replace(b"K\x02K\x03\x86", shape)


def long_(value: int) -> bytes:
    data = value.to_bytes(9, "little")
    return b"\x8a" + bytes([len(data)]) + data


def renumbered(old: str, new: str) -> Callable[[Path], None]:
    """The recorded weights with a tensor under another number."""

    def write(path: Path) -> None:
        state = load_file(GOLDEN)
        save_file({name.replace(old, new): value for name, value in state.items()}, path)

    return write


def with_metadata(**metadata: str) -> Callable[[Path], None]:
    return lambda path: save_file(load_file(GOLDEN), path, metadata=metadata)


class Object(np.ndarray):
    """A subclass, which a pickle names by its module."""


FILES: dict[str, bytes | Callable[[Path], None]] = {
    # Code, by every door a pickle has.
    "os.system": globals_("posix system", f"touch {MARK}"),
    "eval": globals_("builtins eval", f"__import__('os').system('touch {MARK}')"),
    "exec, protocol 0": f"c__builtin__\nexec\n(S{TOUCH!r}\ntR.".encode(),
    "exec": plain(Call(exec, TOUCH)),
    "exec, protocol 4": plain(Call(exec, TOUCH), 4),
    "subprocess": plain(Call(subprocess.getoutput, f"touch {MARK}")),
    "getattr": globals_("builtins getattr", "x"),
    "import": globals_("builtins __import__", "antigravity"),
    "pathlib": plain(Call(Path.touch, MARK)),
    "nested pickle": plain(Call(pickle.loads, pickle.dumps(Call(exec, TOUCH)))),
    "numpy.load": globals_("numpy load", str(MARK)),
    "torch.load": globals_("torch load", str(MARK)),
    "numpy.f2py": globals_("numpy.f2py compile", TOUCH),
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__class__\x93.",
    "INST": f"(S'touch {MARK}'\niposix\nsystem\n.".encode(),
    "OBJ": f"(cposix\nsystem\nS'touch {MARK}'\no.".encode(),
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent object": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "array of objects": plain(np.array([Call(exec, TOUCH)], dtype=object)),
    "subclass of an array": plain(np.zeros(2).view(Object)),
    "old torch": old_torch(Call(exec, TOUCH)),
    "new torch": new_torch(plain(Call(exec, TOUCH))),
    "new torch, eval": new_torch(globals_("builtins eval", TOUCH)),
    "new torch, code": new_torch(plain(Call(exec, TOUCH)), {"archive/code/x.py": TOUCH.encode()}),
    # Sizes that lie.
    "array of petabytes": array(long_(2**60) + long_(2**20) + b"\x86"),
    "array of a negative size": array(b"J\xff\xff\xff\xffK\x06\x86"),
    "memo of gigabytes": b"\x80\x02]r\xff\xff\xff\x7f.",
    "string beyond the end": b"\x80\x04\x8d" + struct.pack("<Q", HUGE) + b"x.",
    "bytes beyond the end": b"\x80\x05\x96" + struct.pack("<Q", HUGE) + b"x.",
    "frame beyond the end": b"\x80\x04\x95" + struct.pack("<Q", HUGE) + b"N.",
    "number beyond the end": b"\x80\x02\x8b\xff\xff\xff\x7f.",
    "lists in lists": b"\x80\x02" + b"]" * 30_000 + b"a" * 29_999 + b".",
    "packed zip": new_torch(more={"archive/bomb": bytes(2**24)}, compression=zipfile.ZIP_DEFLATED),
    "views that are hollow": hollow(w=torch.zeros(1).expand(2**20, 2**20)),
    "sparse": hollow(w=torch.sparse_coo_tensor([[0]], [1.0], (2**40,), check_invariants=True)),
    "meta": hollow(w=torch.empty(2**40, device="meta")),
    "header of exabytes": safetensors({}, length=2**62),
    "header beyond the end": safetensors({"w": tensor([1], 0, 4)}, length=2**20),
    "tensor beyond the end": safetensors({"w": tensor([HUGE], 0, 4 * HUGE)}),
    "shape and bytes differ": safetensors({"w": tensor([HUGE, HUGE], 0, 4)}, bytes(4)),
    "shape that overflows": safetensors({"w": tensor([2**32, 2**32, 4], 0, 4)}, bytes(4)),
    "overlapping": safetensors({"a": tensor([2], 0, 8), "b": tensor([2], 4, 12)}, bytes(12)),
    "negative": safetensors({"w": tensor([-1], 0, 4)}, bytes(4)),
    "unknown type": safetensors({"w": tensor([1], 0, 4, "X99")}, bytes(4)),
    "no JSON": safetensors(b"{" * 1000),
    "JSON in JSON": safetensors(b'{"__metadata__":' + b"[" * 100_000),
    # Models that lie.
    "a billion blocks": renumbered("res4.1.", "res4.999999999."),
    "a billion layers": renumbered("transformer_ffn_layers.1.", "transformer_ffn_layers.999999999."),
    "configuration of a billion layers": with_metadata(
        dvis_config=json.dumps({"query_decoder": {"layers": 10**9}})
    ),
    "configuration of a billion queries": with_metadata(
        dvis_config=json.dumps({"query_decoder": {"queries": 10**12}})
    ),
    "configuration in configurations": with_metadata(dvis_config="[" * 100_000),
    "configuration that names a file": with_metadata(dvis_config=json.dumps({"categories": "/etc/passwd"})),
    "class list in class lists": with_metadata(dvis_categories="[" * 100_000),
}


def test_there_are_enough() -> None:
    assert len(FILES) >= 30


@pytest.mark.parametrize("name", FILES)
def test_refused_in_one_line(name: str, tmp_path: Path, dvis) -> None:
    made = FILES[name]
    path = tmp_path / "w.pth"
    if callable(made):
        made(path)
    else:
        path.write_bytes(made)
    before = set(sys.modules)
    code, out, err = dvis("weights", "convert", path, "-o", tmp_path / "out.safetensors")
    assert code in (1, 2) and out == "", err
    assert err.count("\n") == 1 and err.startswith("error: ") and "unexpected" not in err, err
    assert not MARK.exists(), "code of the file was run"
    assert "antigravity" not in set(sys.modules) - before
    assert [one.name for one in tmp_path.iterdir()] == ["w.pth"]


def test_the_canary_lives() -> None:
    """The payloads do what they should when they are unpickled by somebody who trusts them."""
    try:
        for name in ("os.system", "exec", "INST", "OBJ", "nested pickle"):
            made = FILES[name]
            assert isinstance(made, bytes)
            MARK.unlink(missing_ok=True)
            pickle.loads(made)
            assert MARK.exists(), name
    finally:
        MARK.unlink(missing_ok=True)


def test_they_take_no_memory(tmp_path: Path) -> None:
    """Those with sizes that lie, one after the other in one process."""
    first = list(FILES).index("array of petabytes")
    for number, made in enumerate(list(FILES.values())[first:]):
        path = tmp_path / f"{number}.pth"
        made(path) if callable(made) else path.write_bytes(made)
    code = (
        "import resource, sys, warnings; from pathlib import Path\n"
        "from dvis_cli.errors import DvisError; from dvis_cli.run.loading import load_model\n"
        "warnings.simplefilter('ignore')\n"
        "begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try:\n        load_model(path)\n    except DvisError:\n        continue\n"
        "    raise SystemExit(f'{path} was not refused')\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - begin)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 600_000, "KiB"


# --- folders ----------------------------------------------------------------------------------------------

FOLDERS: dict[str, dict[str, bytes]] = {
    "weights outside": {"model.safetensors.index.json": b'{"weight_map": {"w": "../../../etc/passwd"}}'},
    "weights at the root": {"model.safetensors.index.json": b'{"weight_map": {"w": "/etc/passwd"}}'},
    "weights that are no name": {"model.safetensors.index.json": b'{"weight_map": {"w": 3}}'},
    "index that is a list": {"model.safetensors.index.json": b"[1]"},
    "index without end": {"model.safetensors.index.json": b"[" * 100_000},
    "index of gigabytes": {"model.safetensors.index.json": b" " * (2**24 + 1)},
    "pickled weights": {"pytorch_model.bin": plain(Call(exec, TOUCH))},
    "code beside": {
        "pytorch_model.bin": new_torch(plain(Call(exec, TOUCH))),
        "config.json": b'{"model_type": "mask2former", "auto_map": {"AutoModel": "evil.Model"}}',
        "evil.py": TOUCH.encode(),
    },
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name: str, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    files = {"config.json": b'{"model_type": "mask2former"}', **FOLDERS[name]}
    for file, data in files.items():
        (tmp_path / "m" / file).write_bytes(data)
    with pytest.raises(DvisError):
        inspect_weights(tmp_path / "m")
    assert not MARK.exists()


@pytest.mark.parametrize(
    "text",
    [
        "models: !!python/object/apply:os.system ['touch " + str(MARK) + "']",
        "models: [{name: ../x, licence: x, url: 'https://a/b'}]",
        "models: [{name: x, licence: x, url: 'https://a/b', hub: a/b}]",
        "models: [{name: x, licence: x, hub: '../../etc'}]",
        "models: [{name: x, licence: x, hub: a/b, unknown: 1}]",
        "models: [{name: x, licence: x, hub: a/b, classes: nobody}]",
        "models: [{name: x, licence: x, hub: a/b, md5: xyz}]",
        "models: [{name: x, licence: x, hub: a/b, short_side: 999999999}]",
        "models: [{name: x, licence: x}]",
        "models: [{name: x}]",
        "models: 3",
        "other: []",
        "[" * 1000,
    ],
)
def test_registries(text: str, tmp_path: Path, monkeypatch, dvis) -> None:
    (tmp_path / "r.yaml").write_text(text)
    monkeypatch.setenv("DVIS_REGISTRY", str(tmp_path / "r.yaml"))
    code, _, err = dvis("weights", "list")
    assert code == 2 and err.count("\n") == 1 and "unexpected" not in err, err
    assert not MARK.exists()


def test_spoilt_weights_and_classes_without_names(tmp_path: Path) -> None:
    """NaN would find nothing, silently; a class without a name is numbered, with a warning."""
    network = load_model("dvis-lite")
    tensors = official_state(network)
    save_file(tensors, tmp_path / "bare.safetensors")
    with pytest.warns(DvisWarning, match="67 classes have no names"):
        assert load_model(tmp_path / "bare.safetensors").categories[3].name == "class 3"
    assert not inspect_weights(tmp_path / "bare.safetensors")["config_inside"]
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    save_file({**tensors, name: tensors[name] * float("nan")}, tmp_path / "nan.safetensors")
    with pytest.warns(DvisWarning), pytest.raises(CheckpointError, match="1 tensors hold NaN"):
        load_model(tmp_path / "nan.safetensors")


def test_weights_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        save_weights(load_model("tiny"), tmp_path / "x.safetensors")
    assert not any(tmp_path.iterdir())
