"""Image files -> uint8 pixels, decoded once -> augmented, normalised batches on the device.

    pixels = decode(["a.png", "b.tif"], size=224, cache="runs/cache/mine")    # data: (N, C, 224, 224) uint8
    draws = torch.Generator().manual_seed(0)
    batch(pixels.data, [0, 1], "cpu", augment="light", generator=draws)       # (2, 3, 224, 224) float32

A file of its own because it knows nothing of datasets: what lies on disk is in datasets.py, what pixels are
is here. Imports torch, numpy and PIL; copied alone into another project it works."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import time
import uuid
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

# A file; or (H, W) or (H, W, 3) uint8 pixels; or an os.PathLike whose read() gives such pixels of its file
Source = os.PathLike | np.ndarray
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
RULES = 3  # raise it when a rule below changes, so that no older cache is taken


class CacheError(ValueError):
    """The decoded images cannot be kept; the message says how much room is missing and where."""


class ReadError(ValueError):
    """Images that the system does not give (permission, a failing disk, no memory). Nothing is wrong with
    them as far as anyone knows, so they are neither left out nor remembered as unreadable."""


ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}  # no file under that name


def reason_of(error: Exception) -> tuple[str, bool]:
    """(why an image was not read, in a line; whether its file is to blame: damaged, or not there). Pillow's
    own errors have no errno, but for EINVAL of an offset before the file's beginning; the others are the
    system's."""
    if isinstance(error, MemoryError):
        return "out of memory", False
    if isinstance(error, OSError) and error.errno is not None:
        return error.strerror or str(error), error.errno in {*ABSENT, errno.EINVAL, errno.EISDIR}
    return (str(error) or type(error).__name__).splitlines()[0], True


def read_error(refused: dict[int, str], sources: Sequence[Source]) -> ReadError:
    """refused: row and reason."""
    lines = []
    for i, why in sorted(refused.items()):
        name = f"image {i}" if isinstance(sources[i], np.ndarray) else os.fspath(sources[i])
        lines.append(f"{name}: {why}")
    many = f"{len(lines)} of {len(sources)} images could not be read now"
    more = f" and {len(lines) - 10} more" if len(lines) > 10 else ""
    way_out = "fix that and run again; nothing was stored of them"
    return ReadError(f"{many}, which need not mean damage: {'; '.join(lines[:10])}{more}; {way_out}")


# ---- one image ----


def to_8bit(image: Image.Image, bits: int | None = None) -> Image.Image:
    """L or RGB, 8 bits. EXIF orientation is applied, alpha is composited on black, 16 bits are scaled by
    their depth (Pillow's own I;16 -> L clips to white). bits: the true depth, 12 say, of what lies in 16-bit
    files."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        low, high = values.min(), values.max()
        if image.mode == "F":
            if not np.isfinite(values).all() or low < 0 or high > 1:
                raise ValueError(f"floating-point pixels from {low:g} to {high:g}, not 0 to 1")
            scaled = values * 255
        else:
            top = 2 ** (bits or 16) - 1
            if low < 0 or high > top:
                raise ValueError(f"pixels from {low} to {high} do not fit {bits or 16} bits")
            scaled = values.astype(np.float64) * (255 / top)
        return Image.fromarray((scaled + 0.5).astype(np.uint8))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("LA", "La", "L", "1")
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, image).convert("RGB").convert("L" if grey else "RGB")
    return image.convert("L" if image.mode in GREY_MODES else "RGB")


def fit(image: Image.Image, size: int, resize: int | None = None) -> Image.Image:
    """size x size pixels. resize None: the whole picture, its aspect ratio given up. A number: the shorter
    side is brought to that and the centre of size x size is cut out."""
    if resize is None:
        return image.resize((size, size), Image.Resampling.BILINEAR)
    scale = resize / min(image.size)
    image = image.resize([max(resize, round(side * scale)) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def opened(source: Source) -> Image.Image:
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    return Image.fromarray(source.read()) if hasattr(source, "read") else Image.open(source)


def draft_side(size: int, resize: int | None = None) -> int:
    """The side that a JPEG is drafted for: twice of what is needed, so that scaling in the decoder loses
    nothing that the resize keeps."""
    return 2 * (resize or size)


def decoding_steps(size: int, resize: int | None = None, bits: int | None = None) -> list[str]:
    """What decode_image does to a file, in order and in words that somebody can follow who has only them."""
    side = draft_side(size, resize)
    fitted = f"resize to {size} x {size}"
    if resize is not None:
        width, height = (f"max({resize}, round({name} * scale))" for name in ("width", "height"))
        corner = f"left = (width - {size}) // 2, top = (height - {size}) // 2"
        fitted = f"scale = {resize} / shorter side; resize to {width} x {height}; "
        fitted += f"cut out {size} x {size} from {corner}"
    factor = f"s the largest of 8, 4, 2, 1 that is at most min(width // {side}, height // {side})"
    pillow = f"Pillow: image.draft(None, ({side}, {side})) before the pixels are loaded"
    deep = f"16 bits, grey: x * 255 / {2 ** (bits or 16) - 1}, rounded half up"
    grey = "grey stays one channel (mode L) until the model's input, where it is repeated to three"
    bilinear = "bilinear with antialiasing (Pillow: Image.Resampling.BILINEAR)"
    return [
        f"JPEG: decoded at 1/s, {factor} ({pillow}); other formats in full",
        "EXIF orientation applied (Pillow: ImageOps.exif_transpose)",
        f"{deep}; floating point in 0..1: x * 255 likewise",
        "transparency: composited on black",
        f"{grey}; all else is RGB",
        f"{fitted}, {bilinear}, on 8 bits, rounded to 8 bits",
    ]


def decode_image(
    source: Source, size: int, resize: int | None = None, bits: int | None = None
) -> tuple[np.ndarray, int]:
    """((C, size, size) uint8, C 1 or 3; largest value where the image has 16 bits, else 0). Raises if
    unreadable."""
    with opened(source) as image:
        if bits and file_mode(image).endswith(";16") and image.mode.startswith("RGB"):
            raise ValueError("16-bit colour is read at full depth; --bit-depth is for grey")
        # JPEG: decodes at 1/2, 1/4, 1/8 where twice the size is left
        image.draft(None, (draft_side(size, resize),) * 2)
        largest = int(np.asarray(image).max()) if image.mode.startswith("I") else 0
        pixels = np.asarray(fit(to_8bit(image, bits), size, resize))
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), largest


def file_mode(image: Image.Image) -> str:
    """The mode; "RGB;16" for 16-bit colour, which Pillow calls RGB and brings to 8 bits itself."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF: 258 is BitsPerSample
    deep = 16 in tags.get(258, ()) or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    return f"{image.mode};16" if deep and image.mode.startswith("RGB") else image.mode


def header(source: Source) -> tuple[str, int, int]:
    """(mode, width, height) without decoding."""
    if isinstance(source, np.ndarray):
        return ("L" if source.ndim == 2 else "RGB"), source.shape[1], source.shape[0]
    with opened(source) as image:
        return file_mode(image), image.width, image.height


# ---- all of them ----


@dataclass
class Pixels:
    """data: (N, C, size, size) uint8, C 1 or 3, memory-mapped. bad: row and reason of each unreadable image,
    whose pixels are 0. identical: lists of rows with the same bytes. found: what the images are, in a line.
    warnings: what their owner should know. seconds: how long decoding took. digest: a hash of data's content,
    to record which pixels were trained on."""

    data: torch.Tensor
    bad: list[tuple[int, str]]
    identical: list[list[int]]
    found: str
    warnings: list[str]
    seconds: float
    digest: str


def decode(
    sources: Sequence[Source],
    size: int,
    cache: str | Path,
    *,
    resize: int | None = None,
    bits: int | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pixels:
    """Decodes every image once to uint8 at the training size into the folder `cache-<key>`, or finds it
    there.

    The key is made of file names, sizes, times and the decoding rules. The folder is built under a temporary
    name and renamed. Greyscale stays one channel where every image is. progress(done, total) is called after
    each image. CacheError: the disk has no room for it. ReadError: the system refused to read images; unlike
    damaged ones these are not kept as bad."""
    states = file_states(sources)
    folder = Path(f"{cache}-{size}px-{cache_key(sources, states, [RULES, size, resize, bits])}")
    if not (folder / "pixels.json").is_file():
        temporary = folder.with_name(f"{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.mkdir(parents=True)
            attempts = Attempts(sources, {i for i, state in enumerate(states) if state == "missing"})
            rules = {"size": size, "resize": resize, "bits": bits}
            build_cache(temporary, attempts, **rules, workers=workers, progress=progress)
            os.rename(temporary, folder)
        except OSError:
            if not (folder / "pixels.json").is_file():  # else another process was faster
                raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    meta = json.loads((folder / "pixels.json").read_text(encoding="utf-8"))
    data = torch.from_numpy(np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False))
    meta["bad"] = [(row, reason) for row, reason in meta["bad"]]  # JSON has no tuples
    return Pixels(data, **meta)


def file_states(sources: Sequence[Source]) -> list[str]:
    """Size and time of each file, "missing" where there is none, "" of pixels. ReadError: the system does not
    say."""
    states, refused = [], {}
    for i, source in enumerate(sources):
        try:
            stat = None if isinstance(source, np.ndarray) else os.stat(source)
            states.append("" if stat is None else f"{stat.st_size}\0{stat.st_mtime_ns}")
        except OSError as error:
            if error.errno not in ABSENT:
                refused[i] = reason_of(error)[0]
            states.append("missing")  # a link to nowhere, say: decoding lists it
    if refused:
        raise read_error(refused, sources)
    return states


def cache_key(sources: Sequence[Source], states: Sequence[str], rules: list) -> str:
    digest = hashlib.blake2b(json.dumps(rules).encode(), digest_size=8)
    for source, state in zip(sources, states, strict=True):
        if isinstance(source, np.ndarray):
            digest.update(str(source.shape).encode() + source.tobytes())
        else:
            digest.update(os.fsencode(f"{Path(source).absolute()}\0{state}\0"))
    return digest.hexdigest()


def reserved(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A new array of uint8 in the file, its room on the disk taken: a full disk is an error here and not a
    SIGBUS on writing. CacheError where there is not so much room."""
    needed = math.prod(shape)
    folder, free = file.parent, shutil.disk_usage(file.parent).free
    full = f"the decoded images need {needed / 1e9:.1f} GB in {folder.parent}, {free / 1e9:.1f} GB are free"
    if needed * 1.05 > free:
        raise CacheError(full)
    array = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened_file:
            try:
                os.posix_fallocate(opened_file.fileno(), 0, file.stat().st_size)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    raise CacheError(f"{full}: {error.strerror}") from None  # others: cannot be reserved here
    return array


class Attempts:
    """Functions called on images, of which some fail. bad: row and reason where the file is to blame;
    refused: where the system is, or a file has vanished that was there. absent: rows that had no file."""

    def __init__(self, sources: Sequence[Source], absent: set[int]):
        self.sources, self.absent = sources, absent
        self.bad: dict[int, str] = {}
        self.refused: dict[int, str] = {}

    def call(self, function: Callable, i: int, *arguments: object):
        """What the function gives of the image, None where it failed."""
        try:
            return function(self.sources[i], *arguments)
        except Exception as error:  # noqa: BLE001  Pillow raises many kinds; each is listed with its file
            reason, its_own = reason_of(error)
            vanished = getattr(error, "errno", None) in ABSENT and i not in self.absent
            (self.bad if its_own and not vanished else self.refused)[i] = reason
            return None

    def check(self) -> None:
        """ReadError that names all images that the system refused."""
        if self.refused:
            raise read_error(self.refused, self.sources)


def build_cache(
    folder: Path,
    attempts: Attempts,
    *,
    size: int,
    resize: int | None,
    bits: int | None,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Writes pixels.npy and pixels.json, in which unreadable images are listed, all of them."""
    started, sources, bad = time.perf_counter(), attempts.sources, attempts.bad
    total = len(sources)
    # Pillow decodes and resizes outside of Python's lock. Its warnings (huge image, odd EXIF) are turned off
    # here and not in the threads: the filters are the whole process's.
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")
        heads = list(pool.map(lambda i: attempts.call(header, i), range(total)))
        attempts.check()
        channels = 1 if all(head is None or head[0] in GREY_MODES for head in heads) else 3
        pixels = reserved(folder / "pixels.npy", (total, channels, size, size))

        def work(i: int) -> tuple[int, bytes]:
            """(largest value, hash) of the image, whose pixels are written."""
            decoded = None if i in bad else attempts.call(decode_image, i, size, resize, bits)
            if decoded is None:
                return 0, b"unreadable"
            pixels[i] = decoded[0]
            return decoded[1], hashlib.blake2b(pixels[i].tobytes(), digest_size=16).digest()

        largest, digest = 0, hashlib.blake2b(str(pixels.shape).encode(), digest_size=8)
        for done, (top, content) in enumerate(pool.map(work, range(total)), 1):
            largest = max(largest, top)
            digest.update(content)
            progress(done, total)
    attempts.check()
    pixels.flush()
    good = [i for i in range(total) if i not in bad]
    same_bytes = ([good[k] for k in same] for same in identical_images([sources[i] for i in good], workers))
    meta = {
        "bad": sorted(bad.items()),
        # Frames that are black all over (out-of-body views) are alike in every video and give nothing away.
        "identical": [same for same in same_bytes if pixels[same[0]].any()],
        "found": survey(heads),
        "warnings": depth_warning(largest, bits),
        "seconds": time.perf_counter() - started,
        "digest": digest.hexdigest(),
    }
    (folder / "pixels.json").write_text(json.dumps(meta), encoding="utf-8")


def survey(heads: list[tuple[str, int, int] | None]) -> str:
    """'3264 RGB; widths 174-1375, heights 168-1446'"""
    known = [head for head in heads if head is not None] or [("none", 0, 0)]
    modes, widths, heights = zip(*known, strict=True)
    counts = ", ".join(f"{n} {mode}" for mode, n in Counter(modes).most_common())
    return f"{counts}; widths {min(widths)}-{max(widths)}, heights {min(heights)}-{max(heights)}"


def depth_warning(largest: int, bits: int | None) -> list[str]:
    if not 0 < largest < 2 ** (bits or 16) // 2:
        return []
    depth = largest.bit_length()
    dark = f"the 16-bit images reach only {largest}: dark, with few grey levels"
    return [f"{dark}; is their true depth --bit-depth {depth}?"]


def identical_images(sources: Sequence[Source], workers: int = 2) -> list[list[int]]:
    """Rows with the same bytes, as lists of two and more. Only files of equal size are read."""

    def content(source):
        if isinstance(source, np.ndarray) or hasattr(source, "read"):
            return np.ascontiguousarray(source.read() if hasattr(source, "read") else source).data
        return Path(source).read_bytes()

    def size(i):
        source = sources[i]
        if isinstance(source, np.ndarray):
            return source.shape
        if hasattr(source, "read"):
            return "read"
        try:
            return os.path.getsize(source)
        except OSError as error:
            if error.errno not in ABSENT:
                raise
            return "gone", i  # like no other

    sizes = list(map(size, range(len(sources))))
    common = Counter(sizes)

    def key(i):
        if common[sizes[i]] == 1:
            return i
        return sizes[i], hashlib.blake2b(content(sources[i]), digest_size=16).digest()

    rows = defaultdict(list)
    with ThreadPoolExecutor(workers) as pool:
        for i, same in enumerate(pool.map(key, range(len(sources)))):
            rows[same].append(i)
    return [same for same in rows.values() if len(same) > 1]


# ---- batches ----


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much a batch is altered: probability of a flip, share of the side for shift, of the size for scale,
    degrees of rotation, shares for brightness and contrast."""

    flip: float = 0.5
    shift: float
    scale: float = 0.0
    rotation: float = 0.0
    brightness: float
    contrast: float


AUGMENT = {
    "none": None,
    "light": Augmentation(shift=0.05, brightness=0.1, contrast=0.1),
    "strong": Augmentation(shift=0.1, scale=0.15, rotation=15.0, brightness=0.2, contrast=0.2),
}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def batch(
    data: torch.Tensor,
    rows: np.ndarray,
    device: str | torch.device,
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
    augment: str = "none",
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """(B, 3, H, W) float32, normalised, on the device; greyscale is widened there. The same pixels inside a
    caller's autocast as outside of it: affine_grid is a matrix product, and in bfloat16 its grid is off by
    half a pixel at 224 px and by more than one at 512."""
    images = data[torch.as_tensor(rows, device=data.device)].to(device, non_blocking=True).float().div_(255)
    with torch.autocast(images.device.type, enabled=False):
        if AUGMENT[augment]:
            images = augmented(images, AUGMENT[augment], generator)
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (mean, std))
        return (images - mean) / std


def augmented(images: torch.Tensor, how: Augmentation, generator: torch.Generator | None) -> torch.Tensor:
    """images: (B, C, H, W) float in 0..1. Every image has its own flip, shift, scale, rotation, brightness
    and contrast, drawn on the CPU from the generator, so that they are the same on every device."""
    n = len(images)
    u = torch.rand(7, n, generator=generator).to(images.device) * 2 - 1  # uniform in -1..1
    mirror = torch.where(u[0] < 2 * how.flip - 1, -1.0, 1.0)
    size = 1 + how.scale * u[1]
    angle = torch.deg2rad(how.rotation * u[2])
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    rows = [
        torch.stack([mirror * cos, -sin, 2 * how.shift * u[3]], 1),
        torch.stack([mirror * sin, cos, 2 * how.shift * u[4]], 1),
    ]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    brightness = (1 + how.brightness * u[5])[:, None, None, None]
    contrast = (1 + how.contrast * u[6])[:, None, None, None]
    return (((images - level) * contrast + level) * brightness).clamp_(0, 1)
