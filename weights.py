"""Files of weights in the forms that people have them: which format a file is, and its tensors by name.

    checkpoint = read_file(Path("model.safetensors"))     # what torch.load would give; RunError says what else it is
    tensors = tensors_of(checkpoint)                      # {"model.conv1.weight": ..., ...}, wrappers as prefixes

It stands apart from models.py because it knows formats and no model. No code of a file is ever run: torch.load with
weights_only=True, safetensors by an own reader, and what both refuse is told by its bytes and by the names in its
pickle, which are read without unpickling. docs/checkpoints.md has all forms in a table."""

from __future__ import annotations

import hashlib
import json
import math
import pickletools
import re
import shlex
import sys
import zipfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

import runs
from runs import RunError

# ---- what a file is ----

# First bytes -> what the file is, and what to do.
FORMATS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file that it stands for; git lfs pull fetches that",
    b"\x89HDF\r\n": "HDF5, as Keras writes it, not a file of PyTorch; get the PyTorch weights",
    b"\x93NUMPY": "a NumPy array, not a file of PyTorch; get the PyTorch weights",
    b"\x1f\x8b": "compressed by gzip; unpack it first",
    b"BZh": "compressed by bzip2; unpack it first",
    b"\xfd7zXZ": "compressed by xz; unpack it first",
    b"GGUF": "GGUF, not a file of PyTorch; get the PyTorch weights",
}
# A name in a ZIP file ends like this -> what the file is, and what to do. torch.save's own ends in data.pkl.
ARCHIVES = {
    "constants.pkl": "TorchScript",
    "serialized_exported_program.json": "a program of torch.export",
    "archive_format": "a program of torch.export",
    ".npy": "NumPy arrays (.npz), not a file of PyTorch; get the PyTorch weights",
}
RESAVE = {
    "TorchScript": "torch.jit.load({file}, map_location='cpu').state_dict()",
    "a program of torch.export": "torch.export.load({file}).state_dict",
}


def read_file(file: Path) -> object:
    """What a checkpoint holds: tensors and plain Python. RunError where it cannot be read, with what it is."""
    head = first_bytes(file)
    if told := foreign(head, file):
        raise RunError(f"{file}: is {told}")
    if file.suffix.lower() == ".safetensors" or is_safetensors(head, file.stat().st_size):
        return read_safetensors(file)
    if told := archive(head, file):
        raise RunError(f"{file}: is {told}")
    try:
        return runs.load_checkpoint(file)
    except RunError:
        if told := pickled(file):
            raise RunError(f"{file}: {told}") from None
        raise


def first_bytes(file: Path) -> bytes:
    """The first 512. RunError where there is no such file, it is empty, or no file: a pipe would be waited for."""
    try:
        if file.is_dir():
            raise RunError(f"{file}: is a folder; give the file of weights in it")
        if file.exists() and not file.is_file():
            raise RunError(f"{file}: is a device or a pipe, not a file")
        with open(file, "rb") as opened:
            head = opened.read(512)
    except FileNotFoundError:
        raise RunError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:  # permission, a failing disk, a NUL in the name
        raise RunError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    if not head:
        raise RunError(f"{file}: is empty; fetch it again")
    return head


def foreign(head: bytes, file: Path) -> str:
    """What a file is by its first bytes, where it is none of PyTorch's; "" else."""
    for magic, told in FORMATS.items():
        if head.startswith(magic):
            return told
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "a web page, not the file: the link led to a page that asks or refuses; download it in a browser"
    if b"weight_map" in head or file.name.lower().endswith(".safetensors.index.json"):
        return "the index of safetensors in several parts, which are not read; join them in one file"
    if head.isascii() and all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return f"text, not tensors; it begins with {head[:40].decode()!r}"
    return "ONNX, not a file of PyTorch; get the PyTorch weights" if file.suffix.lower() == ".onnx" else ""


def archive(head: bytes, file: Path) -> str:
    """What a ZIP file is, where it is not torch.save's; "" else."""
    if not head.startswith(b"PK"):
        return ""
    try:
        with zipfile.ZipFile(file) as opened:
            names = opened.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return "cut short or damaged; fetch it again"
    for ending, told in ARCHIVES.items():
        if any(name.endswith(ending) for name in names):
            return told + resave(RESAVE[told], file) if told in RESAVE else told
    if any(name.endswith("data.pkl") for name in names):
        return ""
    return f"an archive of other files ({', '.join(sorted(names)[:3])}); unpack it, and give the file of weights in it"


def resave(expression: str, file: Path, imports: str = "torch") -> str:
    """The end of a message: why a file is not read, and the line that saves its tensors alone. expression: Python with
    {file} for the file's name, its quotes single."""
    out = str(file.with_name(f"{file.stem}-tensors.pth"))
    expression = expression.replace("'", '"').replace("{file}", json.dumps(str(file)))
    code = f"import {imports}; torch.save({expression}, {json.dumps(out)})"
    return (
        "; reading that can run code of the file, so it is not read here; only if you trust where it comes from, save "
        f"its tensors alone and pass {out}: python -c {shlex.quote(code)}"
    )


# ---- pickles ----

# Names in a pickle that weights_only=True takes.
HARMLESS = re.compile(
    r"collections\.(OrderedDict|defaultdict|Counter)|torch\.\w+|torch\._utils\._rebuild_\w+|_codecs\.encode"
    r"|torch\.(storage|_tensor|nn\.parameter|serialization)\.\w+|(__builtin__|builtins)\.(set|dict|list|tuple|bytearray)"
)
MODELS_TOO = "{k: v.state_dict() if isinstance(v, torch.nn.Module) else v for k, v in LOADED.items()}"
TENSORS = "torch.is_tensor(v) or isinstance(v, dict) and all(map(torch.is_tensor, v.values()))"
KEEP = f"{{k: v for k, v in {MODELS_TOO}.items() if {TENSORS}}}"
LEGACY = 0x1950A86A20F9469CFC6C  # the number with which torch.save began before version 1.6


def pickled(file: Path) -> str:
    """What a pickle holds that weights_only=True refuses, and the line that saves it without; "" where nothing odd is
    found in it."""
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as opened:
                name = next(name for name in opened.namelist() if name.endswith("data.pkl"))
                with opened.open(name) as stream:
                    root, names = names_in(stream)
            plain = False
        else:
            with open(file, "rb") as stream:
                plain = not is_legacy(stream)
                root, names = names_in(stream)
    except Exception:  # noqa: BLE001  a damaged pickle, in whatever way: load_checkpoint has said so
        return ""
    odd = [name for name in names if not HARMLESS.fullmatch(name)]
    loaded = (
        "pickle.load(open({file}, 'rb'))" if plain else "torch.load({file}, map_location='cpu', weights_only=False)"
    )
    imports = "pickle, torch" if plain else "torch"
    if root and root in odd:
        if root.startswith("numpy."):
            return "is a pickled NumPy array, not a file of PyTorch's tensors; get the PyTorch weights"
        return f"is a pickled model or object ({root})" + resave(f"{loaded}.state_dict()", file, imports)
    if odd or (plain and names):
        what = f"holds {and_more(kinds_of(odd))} beside its tensors" if odd else "is of pickle.dump, not of torch.save"
        return what + resave(KEEP.replace("LOADED", loaded), file, imports)
    return ""


def kinds_of(odd: list[str]) -> list[str]:
    """What the names in a pickle stand for, each once."""

    def kind(name: str) -> str:
        if name.startswith("numpy."):
            return "NumPy values"
        return "a pickled model" if name.startswith(("torch.nn.", "torchvision.models.", "timm.models.")) else name

    return list(dict.fromkeys(map(kind, odd)))


def and_more(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def is_legacy(stream: BinaryIO) -> bool:
    """Whether a stream is torch.save's before version 1.6; it is left before the pickle of the object: behind three
    small ones, a number, a version and facts of the machine, or at the start."""
    first = next((value for op, value, _ in pickletools.genops(stream) if op.name == "LONG1"), None)
    if first != LEGACY:
        stream.seek(0)
        return False
    for _ in range(3):  # the rest of the first, then the other two
        for _ in pickletools.genops(stream):
            pass
    return True


def names_in(stream: BinaryIO) -> tuple[str, list[str]]:
    """(the class of the object, "" for a dict, list or number; the classes and functions that its pickle names, each
    once), read from a pickle without running it."""
    root, strings, memo, found = None, [], {}, {}
    for op, value, _ in pickletools.genops(stream):
        name = None
        if op.name == "GLOBAL":
            name = value.replace(" ", ".")
        elif op.name == "STACK_GLOBAL":  # of the two texts before it
            name = ".".join(strings[-2:])
        elif "UNICODE" in op.name or "STRING" in op.name:
            strings = [*strings[-1:], str(value)]
        elif op.name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            memo[len(memo) if value is None else value] = strings[-1] if strings else ""
        elif op.name in ("BINGET", "LONG_BINGET"):
            strings = [*strings[-1:], memo.get(value, "")]
        if name:
            found[name] = True
        if root is None and (name or op.name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE", "MARK")):
            root = name or ""
    return root or "", list(found)


# ---- safetensors ----

# https://huggingface.co/docs/safetensors: 8 bytes, little-endian, the header's length; the header, JSON; raw bytes.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
}
MOST_HEADER = 100_000_000  # bytes: the format's own limit


def is_safetensors(head: bytes, size: int) -> bool:
    """Whether a file is safetensors by its first bytes: a length that fits, and the brace of its JSON."""
    return head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors by name. RunError where the header is no header of safetensors, a tensor lies outside of the file,
    over another one or has other bytes than its shape needs."""
    size = file.stat().st_size
    try:
        with open(file, "rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 10 or length > min(size - 8, MOST_HEADER):
                raise ValueError(f"its header should have {length:,} bytes, the file has {size:,}")
            header = json.loads(opened.read(length).decode(), object_pairs_hook=without_twins)
            if not isinstance(header, dict):
                raise TypeError("its header is no JSON object")
            header.pop("__metadata__", None)
            places = {name: checked(name, entry, size - 8 - length) for name, entry in header.items()}
            apart(places)
            found = {}
            for name, (dtype, shape, begin, end) in places.items():
                opened.seek(8 + length + begin)
                found[name] = tensor_of(opened.read(end - begin), dtype, shape)
    except OSError as error:
        raise RunError(f"{file}: cannot be read ({error.strerror or error})") from None
    except (ValueError, TypeError, RecursionError, RuntimeError) as error:  # the last: PyTorch's, of [0, 2**62, 2**62]
        what = "its header is nested too deep" if isinstance(error, RecursionError) else error
        raise RunError(f"{file}: is damaged or no safetensors: {what}; fetch it again") from None
    return found


def without_twins(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in its header")
    return found


def checked(name: str, entry: object, room: int) -> tuple[torch.dtype, list[int], int, int]:
    """(dtype, shape, first byte, end) of a tensor, counted from the header's end. ValueError or
    TypeError where they cannot be."""
    told = f"tensor {name[:80]!r}"
    if not isinstance(entry, dict):
        raise TypeError(f"{told} has no dtype, shape and data_offsets")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    kind = getattr(torch, DTYPES.get(dtype, "") if isinstance(dtype, str) else "", None)
    if kind is None:
        raise ValueError(f"{told} has dtype {str(dtype)[:40]!r}, which PyTorch has not")
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        whole = isinstance(numbers, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in numbers)
        if not whole or len(numbers) > 64:
            raise ValueError(f"{told}: its {what} are no whole numbers of 0 or more")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= room:
        raise ValueError(f"{told} lies outside of the file; is it cut short?")
    if offsets[1] - offsets[0] != math.prod(shape) * kind.itemsize:
        raise ValueError(f"{told}: {offsets[1] - offsets[0]:,} bytes are not those of {shape} in {dtype}")
    return kind, shape, *offsets


def apart(places: dict[str, tuple[torch.dtype, list[int], int, int]]) -> None:
    """ValueError where two tensors share bytes."""
    spans = sorted((begin, end, name) for name, (_, _, begin, end) in places.items() if end > begin)
    for (_, end, one), (begin, _, other) in pairwise(spans):
        if begin < end:
            raise ValueError(f"tensors {one[:80]!r} and {other[:80]!r} share bytes")


def tensor_of(raw: bytes, dtype: torch.dtype, shape: list[int]) -> Tensor:
    if not raw:
        return torch.empty(shape, dtype=dtype)
    if sys.byteorder == "big":
        width = dtype.itemsize // (2 if dtype.is_complex else 1)
        raw = b"".join(raw[i : i + width][::-1] for i in range(0, len(raw), width))
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


# ---- its tensors ----

DEEPEST = 5  # dicts in dicts: {"state": {"model": {"encoder": ...}}}

# Wrappers put their name before all, or before a part (VGG's features.module.0 of DataParallel). torchvision's own
# files have older names: DenseNet "norm.1" where its modules are called "norm1", ViT "mlp.linear_1" and "mlp.linear_2"
# where they are "mlp.0" and "mlp.3".
RENAMED = [
    (re.compile(r"(^|\.)(?:(?:module|_orig_mod|_fsdp_wrapped_module)\.)+"), r"\1"),
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),
    (re.compile(r"\.mlp\.linear_1\."), ".mlp.0."),
    (re.compile(r"\.mlp\.linear_2\."), ".mlp.3."),
]


def tensors_of(checkpoint: object) -> dict[str, Tensor]:
    """The tensors of a checkpoint by today's names. Those of a dict in a dict have its name before theirs, with a dot:
    a wrapper (state_dict, model_ema, teacher) is a prefix like any other. Lists, and dicts by number as optimizers
    have them, are passed over. ValueError where two tensors have one name then."""
    found: dict[str, Tensor] = {}
    for name, value in within(checkpoint, "", DEEPEST):
        for old, new in RENAMED:
            name = old.sub(new, name)
        if name in found:
            raise ValueError(f"two of its tensors would be called {name}")
        found[name] = value
    return found


def within(holder: object, prefix: str, depth: int) -> Iterator[tuple[str, Tensor]]:
    for name, value in holder.items() if isinstance(holder, dict) and depth else ():
        if isinstance(name, str):
            if isinstance(value, Tensor):
                yield prefix + name, value
            else:
                yield from within(value, f"{prefix}{name}.", depth - 1)


def sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while chunk := opened.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, shapes, types and values, for weights that no one file holds."""
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
