"""Builds the compiled half of Auto-RGN when it is first needed, and loads it. Imports torch and nothing else.

    from csrc.loader import load
    native = load("auto", "cuda")     # auto, on or off; cpu or cuda. None: the reference does the work
    grad_norms, weight_norms = native(weights, grads, unit, units)    # as strategies.grad_weight_norms
    held = native.hold(parameters, unit, units)                       # the same, without passing the tensors
    grad_norms, weight_norms = held.norms()                           # of their .grad as it is now
    ratios, trusted = native.relative_ratios(grad_norms, weight_norms, layer, head)
    native.ran                                                        # "csrc cpu 1f3c9a2b7d40", for records

auto takes the reference where a toolchain or a folder to build in is missing, and says so once; a build that
starts and fails is an error in auto as in on. off never builds. A library is built once for each content of
the sources, version of torch and set of flags: in $FTCOMPARE_CACHE if that is set, else in csrc/build, or
where that cannot be written in ~/.cache/ftcompare.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

SOURCES = Path(__file__).resolve().parent
# cpu: what defines the operators. cuda: adds its kernels to them.
LIBRARIES = {"cpu": ("rgn.cpp",), "cuda": ("rgn.cpp", "rgn_cuda.cu")}
NVCC_FLAGS = ["-O3"]


@dataclass(frozen=True)
class Native:
    """The loaded operators, called like strategies.grad_weight_norms and strategies.relative_ratios."""

    ran: str

    def __call__(
        self, weights: list[Tensor], grads: list[Tensor | None], unit: Tensor, units: int
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.ftcompare.grad_weight_norms(weights, grads, unit, units)

    def relative_ratios(
        self, grad_norms: Tensor, weight_norms: Tensor, layer: Tensor, head: Tensor, norm: str = "backbone"
    ) -> tuple[Tensor, Tensor]:
        return torch.ops.ftcompare.relative_ratios(grad_norms, weight_norms, layer, head, norm == "backbone")

    def hold(self, parameters: list[Tensor], unit: Tensor, units: int):
        """An object with norms(): as a call with the parameters and their gradients of that moment."""
        return torch.classes.ftcompare.HeldNorms(list(parameters), unit, units)


_loaded: set[str] = set()  # names of libraries in this process
_told: set[str] = set()  # reasons that were printed
_builders: dict[str, threading.Thread] = {}  # by device, of build_meanwhile


def load(mode: str = "auto", device_type: str = "cpu") -> Native | None:
    """The operators for the device, built if need be, or None: then the reference does the work.
    ValueError: an unknown mode. RuntimeError: mode "on" without a toolchain or a folder to build in, or a
    failed build, with the compiler's own message."""
    if mode not in ("auto", "on", "off"):
        raise ValueError(f"unknown mode {mode!r} of the native kernels; choose from auto, on, off")
    if mode == "off":
        return None
    reason = obstacle(device_type)
    if reason and mode == "on":
        raise RuntimeError(f"the native kernels are not available: {reason}")
    if reason:
        if reason not in _told:
            print(f"native kernels: {reason}; the PyTorch reference does the work", flush=True)
            _told.add(reason)
        return None
    digests = []
    for source in LIBRARIES[device_type]:
        library = find_or_build(source)
        if library.name not in _loaded:
            with _failing(f"loading {library}"):
                torch.ops.load_library(str(library))
            _loaded.add(library.name)
        digests.append(library.stem.rpartition("-")[2])
    return Native(f"csrc {device_type} {' '.join(digests)}")


def build_meanwhile(device_type: str) -> threading.Thread | None:
    """Starts to build what load() will want, in a thread: it takes ten seconds on a CPU, and the caller has other work.
    load() waits for it, and says what went wrong. None where there is nothing to build, or no way to."""
    if device_type in _builders or obstacle(device_type) or all(map(_existing, LIBRARIES[device_type])):
        return _builders.get(device_type)

    def build() -> None:
        with contextlib.suppress(RuntimeError):
            for source in LIBRARIES[device_type]:
                find_or_build(source)

    _builders[device_type] = threading.Thread(target=build, name="native kernels")
    _builders[device_type].start()
    return _builders[device_type]


def obstacle(device_type: str) -> str | None:
    """Why the kernels for this device can be neither found nor built, or None where nothing is in the way."""
    if device_type not in LIBRARIES:
        return f"no kernel exists for {device_type}"
    if device_type == "cuda" and not torch.cuda.is_available():
        return "there is no CUDA device"
    if device_type == "cuda" and torch.version.hip:
        return "no kernel exists for ROCm"
    if all(_existing(source) for source in LIBRARIES[device_type]):
        return None
    return missing_tool(device_type) or (None if _writable_folder() else _unwritable())


def missing_tool(device_type: str) -> str | None:
    """The first tool that a build would lack, or None."""
    if sys.platform == "win32":
        return "they are not built on Windows"
    compiler = os.environ.get("CXX", "c++")
    if not shutil.which(compiler.split()[0]):
        return f"there is no C++ compiler ({compiler})"
    if not shutil.which("ninja", path=_path_with_scripts()):
        return "ninja is not installed (pip install ninja)"
    if device_type == "cuda":
        home = cuda_home()
        if home is None:
            return "there is no CUDA toolkit (set CUDA_HOME to one with bin/nvcc)"
        command = [home / "bin" / "nvcc", "--version"]
        with _failing(f"asking {command[0]} for its version"):
            version = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        release = (re.findall(r"release (\d+\.\d+)", version) or ["unknown"])[0]
        if release.split(".")[0] != torch.version.cuda.split(".")[0]:
            return f"the CUDA toolkit in {home} is {release}, but torch was built with {torch.version.cuda}"
    return None


def cuda_home() -> Path | None:
    """The toolkit, compiler and headers: from the environment, by nvcc on PATH, or in its usual place."""
    nvcc = shutil.which("nvcc")
    usual = Path("/usr/local")
    candidates = [
        os.environ.get("CUDA_HOME"),
        os.environ.get("CUDA_PATH"),
        Path(nvcc).resolve().parent.parent if nvcc else None,
        usual / "cuda",
        *sorted(usual.glob("cuda-*"), reverse=True),
    ]
    for home in (Path(candidate) for candidate in candidates if candidate):
        if (home / "bin" / "nvcc").exists() and (home / "include" / "cuda_runtime.h").exists():
            return home
    return None


# ---- finding, building ----


def find_or_build(source: str) -> Path:
    """The library of a source file. Several processes may ask at once: one builds, the others wait for it."""
    if found := _existing(source):
        return found
    folder = _writable_folder()
    if folder is None:
        raise RuntimeError(_unwritable())
    library = folder / _library_name(source)
    with _failing(f"building {source}"), _locked(library.with_suffix(".lock")):
        if not library.exists():
            _build(SOURCES / source, library)
    return library


def _build(source: Path, library: Path) -> None:
    """In a folder of its own, then moved into place in one piece: nobody sees half a library."""
    extension = cpp_extension()
    print(f"native kernels: building {source.name} in {library.parent}, once, about a minute", flush=True)
    environment = {"PATH": _path_with_scripts()}
    if source.suffix == ".cu":
        environment["TORCH_CUDA_ARCH_LIST"] = _architectures()
        extension.CUDA_HOME = str(cuda_home())  # its own guess may be a folder without headers
    with tempfile.TemporaryDirectory(dir=library.parent) as folder, _environment(environment):
        extension.load(
            name=library.stem,
            sources=[str(source)],
            extra_cflags=_cxx_flags(),
            extra_cuda_cflags=NVCC_FLAGS,
            build_directory=folder,
            is_python_module=False,
        )
        _loaded.add(library.name)  # load has done that, too
        built = next(Path(folder).glob("*.so"))  # has another name if this process has built it before
        os.replace(built, library)


def cpp_extension():
    """torch.utils.cpp_extension, without its warning that a toolkit was found but no GPU."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    from torch.utils import cpp_extension

    return cpp_extension


def _library_name(source: str) -> str:
    """Changes with everything that the built code depends on."""
    parts = [torch.__version__, torch.version.cuda, sys.platform, *_cxx_flags(), os.environ.get("CXX", "")]
    if source.endswith(".cu"):
        parts += [*NVCC_FLAGS, _architectures()]
    digest = hashlib.sha256(repr(parts).encode())
    for name in ("rgn.h", source):
        digest.update((SOURCES / name).read_bytes())
    return f"{Path(source).stem}-{digest.hexdigest()[:12]}.so"


def _cxx_flags() -> list[str]:
    flags = ["-O3", "-Wno-stringop-overflow"]  # gcc 12 warns about torch's own headers
    if sys.platform == "linux":
        flags.append("-fopenmp")
    if torch.backends.cpu.get_cpu_capability().startswith("AVX"):  # AVX2 or AVX512
        flags += ["-mavx2", "-mfma", "-mf16c"]
    return flags


def _architectures() -> str:
    """Those of the devices here, as torch.utils.cpp_extension wants them: "8.0;9.0"."""
    found = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
    here = ";".join(f"{major}.{minor}" for major, minor in sorted(found))
    return os.environ.get("TORCH_CUDA_ARCH_LIST") or here or "8.0;9.0"


def _folders() -> list[Path]:
    if chosen := os.environ.get("FTCOMPARE_CACHE"):
        return [Path(chosen)]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    homes = [cache / "ftcompare"] if cache.is_absolute() else []  # "~": there is no home
    return [SOURCES / "build", *homes]


def _existing(source: str) -> Path | None:
    name = _library_name(source)
    return next((folder / name for folder in _folders() if (folder / name).is_file()), None)


def _writable_folder() -> Path | None:
    for folder in _folders():
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return folder
    return None


def _unwritable() -> str:
    return f"cannot write to {' or '.join(map(str, _folders()))}: set FTCOMPARE_CACHE to another folder"


@contextlib.contextmanager
def _failing(what: str) -> Iterator[None]:
    """A tool or library that fails is a RuntimeError, with the command's own output where there is one."""
    try:
        yield
    except (subprocess.CalledProcessError, OSError, ImportError) as error:
        output = [getattr(error, "stdout", None), getattr(error, "stderr", None)]
        output = [part.decode(errors="replace") if isinstance(part, bytes) else part for part in output]
        lines = [str(error), *(part.strip() for part in output if part)]
        raise RuntimeError(f"native kernels: {what} failed: " + "\n".join(lines)) from error


def _path_with_scripts() -> str:
    """PATH, then the interpreter's scripts: in an environment that is not activated, ninja is only there."""
    return os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Only one process at a time; the system lets go of the lock when its holder ends, however it ends."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
