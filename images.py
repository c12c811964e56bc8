"""Image files -> uint8 pixels, decoded once -> augmented, normalised batches on the device.

    pixels = decode(["a.png", "b.tif"], size=224, cache="runs/cache/mine")    # data: (N, C, 224, 224) uint8
    draws = torch.Generator().manual_seed(0)
    batch(pixels.data, [0, 1], "cpu", augment="light", generator=draws)       # (2, 3, 224, 224) float32

A file of its own because it knows nothing of datasets: what lies on disk is in datasets.py, what pixels are
is here. Imports torch, numpy and PIL; copied alone into another project it works.
Order: one image, all of them, the cache on the disk, near copies, batches."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import math
import os
import re
import shutil
import socket
import stat
import struct
import time
import uuid
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps

# A file; or (H, W) or (H, W, 3) uint8 pixels; or an os.PathLike whose read() gives such pixels of its file
Source = os.PathLike | np.ndarray
GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"}
RULES = 4  # raise it when a rule below changes, so that no older cache is taken
MOST_PIXELS = 2**25  # of what a resize may make on its way: 134 MB of colour


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


class Seen(NamedTuple):
    """What decode_image met on its way. largest: value of an image of 16 bits, else 0. clear: its alpha was 0
    everywhere and was taken for none. pages: it has several, or frames, of which the first was read."""

    largest: int = 0
    clear: bool = False
    pages: bool = False


def to_8bit(image: Image.Image, bits: int | None = None) -> tuple[Image.Image, Seen]:
    """(the image in L or RGB, 8 bits; what was seen). EXIF orientation is applied, alpha is composited on
    black, 16 bits are scaled by their depth (Pillow's own I;16 -> L clips to white). bits: the true depth, 12
    say, of what lies in 16-bit files."""
    pages, tags = bool(getattr(image, "is_animated", False)), getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        grey, largest = deep_to_8bit(image, tags, bits)
        return grey, Seen(largest, pages=pages)
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = image.mode in ("LA", "La", "L", "1")
        image = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        clear = image.getchannel("A").getextrema() == (0, 0)
        if clear:  # a writer that left the channel unset: composited, nothing of the picture would be left
            image.putalpha(255)
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image).convert("RGB").convert("L" if grey else "RGB")
        return image, Seen(clear=clear, pages=pages)
    return image.convert("L" if image.mode in GREY_MODES else "RGB"), Seen(pages=pages)


def deep_to_8bit(image: Image.Image, tags: dict, bits: int | None) -> tuple[Image.Image, int]:
    """(L, largest value) of grey in 16 bits or in floating point. tags: of a TIFF, where 262 is
    PhotometricInterpretation: 0 is WhiteIsZero, which Pillow applies to 8 bits alone."""
    values, white_is_zero = np.asarray(image), tags.get(262) == 0
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not np.isfinite(values).all() or low < 0 or high > 1:
            raise ValueError(f"floating-point pixels from {low:g} to {high:g}, not 0 to 1")
        scaled, largest = (1 - values if white_is_zero else values) * 255, 0
    else:
        top = 2 ** (bits or 16) - 1
        if low < 0 or high > top:
            raise ValueError(f"pixels from {low} to {high} do not fit {bits or 16} bits")
        if white_is_zero:
            values = top - values.astype(np.int64)
        scaled, largest = values.astype(np.float64) * (255 / top), int(values.max())
    return Image.fromarray((scaled + 0.5).astype(np.uint8)), largest


def fit(image: Image.Image, size: int, resize: int | None = None) -> Image.Image:
    """size x size pixels. resize None: the whole picture, its aspect ratio given up. A number: the shorter
    side is brought to that and the centre of size x size is cut out. No step on the way has more than
    MOST_PIXELS pixels, or those of the picture itself."""
    if resize is None:
        if size * image.height > MOST_PIXELS and image.width < size:  # Pillow takes the width first
            image = image.resize((image.width, size), Image.Resampling.BILINEAR)
        return image.resize((size, size), Image.Resampling.BILINEAR)
    scale = resize / min(image.size)
    if math.prod(round(side * scale) for side in image.size) > MOST_PIXELS:
        image = middle(image, math.ceil(size / scale) + 2 * math.ceil(2 * max(1, 1 / scale)))  # the filter's reach
    image = image.resize([round(side * scale) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def middle(image: Image.Image, length: int) -> Image.Image:
    """Its middle, sides of that many pixels, or one more so that as much is cut on the left as on the right."""
    sides = [min(side, length + (side - length) % 2) for side in image.size]
    left, top = ((side - kept) // 2 for side, kept in zip(image.size, sides, strict=True))
    return image.crop((left, top, left + sides[0], top + sides[1]))


def opened(source: Source) -> Image.Image:
    """The image, not yet decoded. ValueError for what could be waited for without end."""
    if isinstance(source, np.ndarray):
        return Image.fromarray(source)
    kind = os.stat(source).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise ValueError("no file but a pipe, a socket or a device")
    return Image.fromarray(source.read()) if hasattr(source, "read") else Image.open(source)


def seen_through(source: Source, look: Callable[[Image.Image], object]) -> object:
    """look(image) of the opened image. A PNG whose texts pass Pillow's limits is read without them."""
    try:
        with opened(source) as image:
            return look(image)
    except ValueError as error:
        if "MAX_TEXT" not in str(error):
            raise
    with Image.open(without_text(Path(source))) as image:
        return look(image)


TEXT_CHUNKS = {b"tEXt", b"zTXt", b"iTXt", b"iCCP"}
ORIENTED = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # the texts that Pillow takes the orientation from


def without_text(file: Path) -> io.BytesIO:
    """A PNG without its texts and colour profile, of which nothing is used but the orientation."""
    data = file.read_bytes()
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk = data[at : at + 12 + length]
        if kind not in TEXT_CHUNKS or chunk[8:].startswith(ORIENTED):
            kept.append(chunk)
        at += 12 + length
    return io.BytesIO(b"".join(kept))


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
    top = 2 ** (bits or 16) - 1
    deep = f"16 bits, grey: x * 255 / {top}, rounded half up; TIFF's WhiteIsZero: {top} - x first"
    grey = "grey stays one channel (mode L) until the model's input, where it is repeated to three"
    bilinear = "bilinear with antialiasing (Pillow: Image.Resampling.BILINEAR)"
    return [
        f"JPEG: decoded at 1/s, {factor} ({pillow}); other formats in full",
        "EXIF orientation applied (Pillow: ImageOps.exif_transpose)",
        f"{deep}; floating point in 0..1: x * 255 likewise",
        "transparency: composited on black; an alpha of 0 everywhere is none",
        f"{grey}; all else is RGB",
        f"{fitted}, {bilinear}, on 8 bits, rounded to 8 bits",
        f"where that would make more than {MOST_PIXELS} pixels, the picture's middle is cut out before",
    ]


def decode_image(
    source: Source, size: int, resize: int | None = None, bits: int | None = None
) -> tuple[np.ndarray, Seen]:
    """((C, size, size) uint8, C 1 or 3; what was seen on the way). Raises if unreadable."""

    def look(image: Image.Image) -> tuple[np.ndarray, Seen]:
        if 0 in image.size:  # of which Pillow makes black ones
            raise ValueError(f"no pixels: {image.width} x {image.height}")
        if bits and file_mode(image).endswith(";16") and image.mode.startswith("RGB"):
            raise ValueError("16-bit colour is read at full depth; --bit-depth is for grey")
        # JPEG: decodes at 1/2, 1/4, 1/8 where twice the size is left
        image.draft(None, (draft_side(size, resize),) * 2)
        image, seen = to_8bit(image, bits)
        return np.asarray(fit(image, size, resize)), seen

    pixels, seen = seen_through(source, look)
    return (pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)), seen


def file_mode(image: Image.Image) -> str:
    """The mode; "RGB;16" for 16-bit colour, which Pillow calls RGB and brings to 8 bits itself."""
    tags = getattr(image, "tag_v2", {})  # of a TIFF: 258 is BitsPerSample
    deep = 16 in tags.get(258, ()) or any(";16" in str(tile) for tile in getattr(image, "tile", ()))
    return f"{image.mode};16" if deep and image.mode.startswith("RGB") else image.mode


def header(source: Source) -> tuple[str, int, int]:
    """(mode, width, height) without decoding."""
    if isinstance(source, np.ndarray):
        return ("L" if source.ndim == 2 else "RGB"), source.shape[1], source.shape[0]
    return seen_through(source, lambda image: (file_mode(image), image.width, image.height))


# ---- all of them ----


ODD = {  # what is said of images that were read
    "flat": "with one flat value, so nothing to see",
    "clear": "with an alpha of 0 everywhere, read as if they had none",
    "pages": "with several pages or frames, of which the first was read",
}


@dataclass
class Pixels:
    """data: (N, C, size, size) uint8, C 1 or 3, memory-mapped. grey: (N,) bool, which images have one channel,
    or are unreadable; all of them where C is 1. bad: row and reason of each unreadable image, whose pixels are
    0. identical: lists of rows with the same bytes. odd: the rows of each of ODD. found: what the images are,
    in a line. warnings: what their owner should know. seconds: how long decoding took. digest: a hash of
    data's content, to record which pixels were trained on."""

    data: torch.Tensor
    grey: np.ndarray
    bad: list[tuple[int, str]]
    identical: list[list[int]]
    odd: dict[str, list[int]]
    found: str
    warnings: list[str]
    seconds: float
    digest: str

    def remarks(self, names: Sequence[str], most: int = 3) -> list[str]:
        """warnings, and a line for each of odd, with the names of the first few."""
        lines = list(self.warnings)
        for what, rows in self.odd.items():
            if rows:
                more = f" and {len(rows) - most} more" if len(rows) > most else ""
                shown = ", ".join(names[row] for row in rows[:most])
                lines.append(f"{len(rows)} of {len(names)} images {ODD[what]}: {shown}{more}")
        return lines


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
    name and renamed; one that is damaged is built anew, which Pixels.warnings says. Greyscale stays one channel
    where every image is. progress(done, total) is called after each image. CacheError: the disk has no room for
    it. ReadError: the system refused to read images; unlike damaged ones these are not kept as bad."""
    states = file_states(sources)
    folder = Path(f"{cache}-{size}px-{cache_key(sources, states, [RULES, size, resize, bits])}")
    remove_leftovers(folder.parent)
    damage = ""
    if folder.exists():
        try:
            return load_cache(folder, workers)
        except DamagedCache as error:
            damage = str(error)
            put_away(folder)
    attempts = Attempts(sources, {i for i, state in enumerate(states) if state == "missing"})
    rules = {"size": size, "resize": resize, "bits": bits}
    with unfinished(folder) as temporary:
        build_cache(temporary, attempts, **rules, workers=workers, progress=progress)
    pixels = load_cache(folder, workers, check=False)
    if damage:
        pixels.warnings.append(f"the decoded images in {folder} were damaged ({damage}); they were decoded anew")
    return pixels


def file_states(sources: Sequence[Source]) -> list[str]:
    """Size and time of each file, "missing" where there is none, "" of pixels. ReadError: the system does not
    say."""
    states, refused = [], {}
    for i, source in enumerate(sources):
        try:
            known = None if isinstance(source, np.ndarray) else os.stat(source)
            states.append("" if known is None else f"{known.st_size}\0{known.st_mtime_ns}")
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

        def work(i: int) -> tuple[Seen, bytes]:
            """(what was seen of the image, hash of its pixels), which are written."""
            decoded = None if i in bad else attempts.call(decode_image, i, size, resize, bits)
            if decoded is None:
                return Seen(), UNREADABLE
            pixels[i] = decoded[0]
            return decoded[1], hash_of(pixels[i])

        seen, digest = [], hashlib.blake2b(str(pixels.shape).encode(), digest_size=8)
        for one, content in pool.map(work, range(total)):
            seen.append(one)
            digest.update(content)
            progress(len(seen), total)
    attempts.check()
    pixels.flush()
    good = [i for i in range(total) if i not in bad]
    odd = {name: [i for i in good if getattr(seen[i], name)] for name in ("clear", "pages")}
    same_bytes = ([good[k] for k in same] for same in identical_images([sources[i] for i in good], workers))
    meta = {
        "grey": [i for i in range(total) if i in bad or heads[i][0] in GREY_MODES],
        "bad": sorted(bad.items()),
        # Frames that are black all over (out-of-body views) are alike in every video and give nothing away.
        "identical": [same for same in same_bytes if pixels[same[0]].any()],
        "odd": {"flat": [i for i in good if is_flat(pixels[i])]} | odd,
        "found": survey(heads),
        "warnings": depth_warning(max((seen[i].largest for i in good), default=0), bits),
        "seconds": time.perf_counter() - started,
        "digest": digest.hexdigest(),
    }
    (folder / "pixels.json").write_text(json.dumps({"meta": meta, "seal": seal_of(meta)}), encoding="utf-8")


def is_flat(pixels: np.ndarray) -> bool:
    """Whether all pixels of a (C, H, W) image are alike."""
    return bool((pixels == pixels[:, :1, :1]).all())


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


# ---- the cache on the disk ----


class DamagedCache(ValueError):
    """Decoded images that are not as they were written; the message says why."""


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


UNREADABLE = b"unreadable"  # in place of a hash


def hash_of(pixels: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(pixels), digest_size=16).digest()


def digest_of(pixels: np.ndarray, bad: dict[int, str], workers: int) -> str:
    """A hash of all the content, image by image; bad: rows of images that were not read."""

    def contents(start: int) -> bytes:
        rows = range(start, min(start + 64, len(pixels)))
        return b"".join(UNREADABLE if i in bad else hash_of(pixels[i]) for i in rows)

    digest = hashlib.blake2b(str(pixels.shape).encode(), digest_size=8)
    with ThreadPoolExecutor(workers) as pool:  # blake2b works outside of Python's lock
        for part in pool.map(contents, range(0, len(pixels), 64)):
            digest.update(part)
    return digest.hexdigest()


def seal_of(meta: dict) -> str:
    return hashlib.blake2b(json.dumps(meta).encode(), digest_size=8).hexdigest()


def load_cache(folder: Path, workers: int, check: bool = True) -> Pixels:
    """DamagedCache where it is not what was written. check: the pixels are read and held against their
    hash, too."""
    try:
        kept = json.loads((folder / "pixels.json").read_text(encoding="utf-8"))
        meta = kept["meta"]
        if kept["seal"] != seal_of(meta):
            raise DamagedCache("pixels.json does not match its hash")
        data = np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False)
        meta["bad"] = [(row, reason) for row, reason in meta["bad"]]  # JSON has no tuples
        if check and digest_of(data, dict(meta["bad"]), workers) != meta["digest"]:
            raise DamagedCache("pixels.npy does not match its hash")
    except FileNotFoundError as error:
        raise DamagedCache(f"{Path(error.filename).name} is missing") from None
    except (OSError, DamagedCache):
        raise
    except Exception as error:  # noqa: BLE001  numpy and json raise a dozen kinds
        raise DamagedCache(f"unreadable, {type(error).__name__}") from None
    meta["grey"] = np.isin(np.arange(len(data)), meta["grey"])
    return Pixels(torch.from_numpy(data), **meta)


UNFINISHED = re.compile(r".+-\d+px-[0-9a-f]{16}\..*tmp")
A_DAY = 86_400  # seconds


def host_name() -> str:
    return re.sub("[^A-Za-z0-9-]", "-", socket.gethostname())


@contextlib.contextmanager
def unfinished(folder: Path) -> Iterator[Path]:
    """A folder to build in, which becomes `folder` when it is whole. Where another process was faster, that
    one's stays. It is locked while this process lives, so that others know whether it is worked on."""
    temporary, lock = folder.with_name(f"{folder.name}.{host_name()}.{uuid.uuid4().hex[:8]}.tmp"), None
    try:
        temporary.mkdir(parents=True)
        with contextlib.suppress(ImportError):  # Windows has no fcntl
            import fcntl

            lock = open(temporary / "lock", "w")  # noqa: SIM115  open as long as the folder is
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                lock.write("locked")  # an empty one is not locked yet
                lock.flush()
        yield temporary
        try:
            os.rename(temporary, folder)
        except OSError:
            if not (folder / "pixels.json").is_file():
                raise
        (folder / "lock").unlink(missing_ok=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock:
            lock.close()


def remove_leftovers(parent: Path) -> None:
    """Removes what processes that were killed had half built: of this machine where the lock is free, of
    others, and without a lock, where nothing was written for a day."""
    for folder in parent.glob("*.tmp"):
        if not UNFINISHED.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):
            idle = time.time() - max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))
            if idle > A_DAY or (f".{host_name()}." in folder.name and is_free(folder / "lock")):
                shutil.rmtree(folder, ignore_errors=True)


def is_free(lock: Path) -> bool:
    """Whether a process held it that does no longer."""
    try:
        import fcntl

        with open(lock, "r+") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return bool(handle.read())
    except (ImportError, OSError):
        return False


def put_away(folder: Path) -> None:
    """Removes a damaged cache. Who has it open keeps what is open."""
    aside = folder.with_name(f"{folder.name}.{host_name()}.{uuid.uuid4().hex[:8]}.tmp")
    with contextlib.suppress(FileNotFoundError):  # another process did
        os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


# ---- near copies ----


def thumbnails(data: torch.Tensor, side: int = 16) -> torch.Tensor:
    """(N, side * side) float32 of (N, C, S, S) uint8: in grey, made small, without its mean and of length 1, so
    that a product of two is their correlation; 0 of what is flat."""
    rows, luma = [], torch.tensor((0.299, 0.587, 0.114))[:, None, None]  # ITU-R BT.601, as Pillow's L
    for part in data.split(256):
        grey = part.float() if part.shape[1] == 1 else (part * luma).sum(dim=1, keepdim=True)
        small = torch.nn.functional.interpolate(grey, (side, side), mode="area").flatten(1)
        small = small - small.mean(dim=1, keepdim=True)
        length = small.norm(dim=1, keepdim=True)
        rows.append(torch.where(length > side, small / length, 0.0))  # a deviation of over one grey level
    return torch.cat(rows)


def near_copies(data: torch.Tensor, sides: np.ndarray, least: float = 0.99) -> list[tuple[int, int, float]]:
    """(row, the most alike one of another side, their correlation) for each image of val that is nearly one of
    train, and of test that is nearly one of train or val: the same picture in another size, format or
    brightness. data: of Pixels. sides: N strings, train, val, test or "". least: of the correlation."""
    small, order, found = thumbnails(data), ("train", "val", "test"), []
    for k, side in enumerate(order[1:], 1):
        later = torch.from_numpy(np.flatnonzero(sides == side))
        earlier = torch.from_numpy(np.flatnonzero(np.isin(sides, order[:k])))
        if not len(earlier):
            continue
        for part in later.split(1024):
            best, other = torch.full((len(part),), -1.0), torch.zeros(len(part), dtype=torch.int64)
            for block in earlier.split(8192):
                value, place = (small[part] @ small[block].T).max(dim=1)
                better = value > best
                best, other = torch.where(better, value, best), torch.where(better, block[place], other)
            near = best > least
            found += zip(part[near].tolist(), other[near].tolist(), best[near].tolist(), strict=True)
    return found


# ---- batches ----


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How much a batch is altered: probability of a flip from left to right and of one upside down, share of
    the side for shift, of the size for scale, degrees of rotation, shares for brightness and contrast."""

    flip: float = 0.0
    upside_down: float = 0.0
    shift: float = 0.0
    scale: float = 0.0
    rotation: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0


AUGMENT = {
    "none": Augmentation(),
    "light": Augmentation(flip=0.5, shift=0.05, brightness=0.1, contrast=0.1),
    "strong": Augmentation(flip=0.5, shift=0.1, scale=0.15, rotation=15.0, brightness=0.2, contrast=0.2),
}
FLIP = {  # in the place of the augmentation's own
    "none": {"flip": 0.0, "upside_down": 0.0},
    "horizontal": {"flip": 0.5, "upside_down": 0.0},
    "both": {"flip": 0.5, "upside_down": 0.5},
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
    flip: str | None = None,
    grey: np.ndarray | None = None,
    generator: torch.Generator | None = None,
) -> torch.Tensor:
    """(B, 3, H, W) float32, normalised, on the device; greyscale is widened there. flip: of FLIP; None: as the
    augmentation has it. grey: (B,) bool, which of the rows are grey images in three equal channels; they come out
    with the bits that they have in one channel. The same pixels inside a caller's autocast as outside of it:
    affine_grid is a matrix product, and in bfloat16 its grid is off by half a pixel at 224 px and by more than
    one at 512."""
    images = data[torch.as_tensor(rows, device=data.device)].to(device, non_blocking=True).float().div_(255)
    how = AUGMENT[augment] if flip is None else replace(AUGMENT[augment], **FLIP[flip])
    with torch.autocast(images.device.type, enabled=False):
        if how != Augmentation():
            images = augmented(images, how, generator, grey)
        mean, std = (torch.tensor(v, device=images.device)[:, None, None] for v in (mean, std))
        return (images - mean) / std


def augmented(
    images: torch.Tensor, how: Augmentation, generator: torch.Generator | None, grey: np.ndarray | None = None
) -> torch.Tensor:
    """images: (B, C, H, W) float in 0..1. Every image has its own flip, shift, scale, rotation, brightness
    and contrast, drawn on the CPU from the generator, so that they are the same on every device. grey: as in
    batch."""
    n = len(images)
    u = torch.rand(7, n, generator=generator).to(images.device) * 2 - 1  # uniform in -1..1
    mirror, turn = torch.where(u[0] < 2 * how.flip - 1, -1.0, 1.0), torch.ones(n, device=images.device)
    if how.upside_down:  # drawn apart: without it all else is drawn as it was before there was one
        v = torch.rand(n, generator=generator).to(images.device)
        turn = torch.where(v < how.upside_down, -1.0, 1.0)
    size = 1 + how.scale * u[1]
    angle = torch.deg2rad(how.rotation * u[2])
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    rows = [
        torch.stack([mirror * cos, -turn * sin, 2 * how.shift * u[3]], 1),
        torch.stack([mirror * sin, turn * cos, 2 * how.shift * u[4]], 1),
    ]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    if grey is not None and images.shape[1] == 3:  # a sum over three equal channels is rounded otherwise
        single = torch.from_numpy(np.flatnonzero(grey)).to(images.device)
        level[single] = images[single, :1].contiguous().mean(dim=(1, 2, 3), keepdim=True)
    brightness = (1 + how.brightness * u[5])[:, None, None, None]
    contrast = (1 + how.contrast * u[6])[:, None, None, None]
    return (((images - level) * contrast + level) * brightness).clamp_(0, 1)
