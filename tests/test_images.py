"""images.py: pixel rules against numpy on the raw values, the cache, batches and augmentation. Runs in
seconds:

    python -m pytest tests/test_images.py

Pillow does not write 16-bit RGB or big-endian files; png() and tiff() below write those from their
specifications, so that the values in the file are known."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import struct
import threading
import warnings
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import images
from images import (
    AUGMENT,
    FLIP,
    IMAGENET_MEAN,
    IMAGENET_STD,
    MOST_PIXELS,
    Augmentation,
    augmented,
    batch,
    decode,
    decode_image,
    identical_images,
)


def png(file: Path, values: np.ndarray, *chunks: tuple[bytes, bytes], size=None) -> Path:
    """values: (H, W) or (H, W, 2, 3 or 4), uint8 or uint16. chunks: (type, content) before the pixels. size:
    a false (width, height) in the header."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[1 if values.ndim == 2 else values.shape[2]]
    width, height = size or values.shape[1::-1]
    header = struct.pack(">IIBBBBB", width, height, 8 * values.dtype.itemsize, kind, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(values.dtype.newbyteorder(">")).tobytes() for row in values)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(p)) + t + p + struct.pack(">I", zlib.crc32(t + p)) for t, p in parts]
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return file


def tiff(file: Path, values: np.ndarray, order="<", **more: int) -> Path:
    """values: (H, W) or (H, W, 3) of any dtype, uncompressed in one strip, little- or big-endian. more: photometric
    (0: white is zero), orientation."""
    height, width = values.shape[:2]
    channels = 1 if values.ndim == 2 else values.shape[2]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = {256: [width], 257: [height], 258: [8 * values.dtype.itemsize] * channels, 259: [1]}
    tags |= {262: [more.get("photometric", 1 if channels == 1 else 2)], 273: [0], 274: [more.get("orientation", 1)]}
    tags |= {277: [channels], 278: [height], 279: [len(data)]}
    tags[339] = [sample_format] * channels
    start = 8 + 2 + 12 * len(tags) + 4
    tags[273] = [start + 12]  # room for two lists of three numbers, of 6 bytes each
    entries, far = b"", b""
    for tag, content in tags.items():
        packed = struct.pack(f"{order}{len(content)}H", *content)
        if len(packed) > 4:
            packed, far = struct.pack(f"{order}I", start + len(far)), far + packed
        entries += struct.pack(f"{order}HHI", tag, 3, len(content)) + packed.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(tags))
    file.write_bytes(head + entries + bytes(4) + far.ljust(12, b"\0") + data)
    return file


def noise(*shape, seed=0, high=256, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, high, shape).astype(dtype)


def pixels_of(file: Path, size=8, **rules) -> np.ndarray:
    """(H, W) or (H, W, 3) uint8: a square picture of the training size is not resampled."""
    pixels = decode_image(file, size, **rules)[0]
    assert pixels.dtype == np.uint8 and pixels.shape[1:] == (size, size)
    return pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)


def saved(file: Path, values: np.ndarray, mode=None, **options) -> Path:
    (Image.fromarray(values) if mode is None else Image.fromarray(values).convert(mode)).save(file, **options)
    return file


# ---- pixel rules ----


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_8_bits_come_through_as_they_are(tmp_path, suffix):
    for shape in ((8, 8), (8, 8, 3)):
        values = noise(*shape)
        np.testing.assert_array_equal(pixels_of(saved(tmp_path / f"x.{suffix}", values)), values)
        np.testing.assert_array_equal(pixels_of(values), values)  # pixels of an npz


@pytest.mark.parametrize("write", [png, tiff, lambda file, values: tiff(file, values, ">")])
def test_16_bit_greyscale_is_scaled_and_not_clipped(tmp_path, write):
    values = noise(8, 8, high=65536, dtype=np.uint16)
    values[0, :4] = 0, 255, 256, 65535
    pixels = pixels_of(write(tmp_path / "x.img", values))
    np.testing.assert_array_equal(pixels, np.round(values / 257))  # 65535 = 255 * 257
    assert pixels[0, :4].tolist() == [0, 1, 1, 255]
    assert decode_image(tmp_path / "x.img", 8)[1].largest == 65535


@pytest.mark.parametrize("write", [png, tiff, lambda file, values: tiff(file, values, ">")])
def test_16_bit_colour_is_scaled_and_not_clipped(tmp_path, write):
    values = noise(8, 8, 3, high=65536, dtype=np.uint16)
    pixels = pixels_of(write(tmp_path / "x.img", values))
    # Pillow takes the high byte, which is at most one level lower
    assert np.abs(pixels - values / 257).max() <= 1


def test_16_bit_alpha(tmp_path):
    values = noise(8, 8, 4, high=65536, dtype=np.uint16)
    on_black = values[..., :3] / 257 * (values[..., 3:] / 65535)
    assert np.abs(pixels_of(png(tmp_path / "x.png", values)) - on_black).max() <= 2


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int16])
def test_wide_integer_tiff_counts_as_16_bits(tmp_path, dtype):
    values = noise(8, 8, high=32768).astype(dtype) * (1 if dtype == np.int16 else 2)
    np.testing.assert_array_equal(pixels_of(tiff(tmp_path / "x.tif", values)), np.round(values / 257))


def test_integers_beyond_16_bits_are_refused_not_clipped(tmp_path):
    tiff(tmp_path / "over.tif", np.full((8, 8), 65536, np.int32))
    tiff(tmp_path / "under.tif", np.full((8, 8), -1, np.int16))
    with pytest.raises(ValueError, match="from 65536 to 65536 do not fit 16 bits"):
        decode_image(tmp_path / "over.tif", 8)
    with pytest.raises(ValueError, match="from -1 to -1 do not fit 16 bits"):
        decode_image(tmp_path / "under.tif", 8)


def test_12_bits_in_16_are_dark_warned_about_and_scaled_when_said(tmp_path):
    values = noise(8, 8, high=4096, dtype=np.uint16)
    values[0, 0] = 4095
    files = [png(tmp_path / "x.png", values), saved(tmp_path / "y.png", noise(8, 8))]
    plain = decode(files, 8, tmp_path / "c")
    np.testing.assert_array_equal(plain.data[0, 0], np.round(values / 257))
    assert len(plain.warnings) == 1 and "4095" in plain.warnings[0] and "--bit-depth 12" in plain.warnings[0]
    scaled = decode(files, 8, tmp_path / "c", bits=12)
    np.testing.assert_array_equal(scaled.data[0, 0], np.round(values * (255 / 4095)))
    np.testing.assert_array_equal(scaled.data[1, 0], noise(8, 8))  # an 8-bit image among them stays
    assert scaled.warnings == []
    narrow = decode(files, 8, tmp_path / "c", bits=11)
    assert narrow.bad == [(0, f"pixels from {values.min()} to 4095 do not fit 11 bits")]


def test_depth_warning_at_half_of_the_range(tmp_path):
    for top, warned in ((32767, True), (32768, False)):
        file = png(tmp_path / f"{top}.png", np.full((4, 4), top, np.uint16))
        assert bool(decode([file], 4, tmp_path / "c").warnings) == warned
    assert decode([saved(tmp_path / "dark.png", noise(4, 4, high=9))], 4, tmp_path / "c").warnings == []


@pytest.mark.parametrize("bits", [None, 12])
@pytest.mark.parametrize("orientation", [1, 6])
def test_white_is_zero_in_16_bits(tmp_path, bits, orientation):
    """TIFF 6.0, tag 262: of WhiteIsZero 0 is imaged as white, so a file of top - v is the picture of v. Turned,
    too: Pillow forgets the tags of what it turns."""
    top = 2 ** (bits or 16) - 1
    values = noise(8, 8, high=top + 1, dtype=np.uint16)
    values[0, :2] = 0, top
    black = tiff(tmp_path / "black.tif", values, orientation=orientation)
    white = tiff(tmp_path / "white.tif", (top - values).astype(np.uint16), photometric=0, orientation=orientation)
    expected = ORIENTED[orientation](np.floor(values * (255 / top) + 0.5))
    for file in (black, white):
        np.testing.assert_array_equal(pixels_of(file, bits=bits), expected)
        assert decode_image(file, 8, bits=bits)[1].largest == top
    dark = tiff(tmp_path / "dark.tif", np.full((8, 8), 65535 - 900, np.uint16), photometric=0)
    (warning,) = decode([dark], 8, tmp_path / "c").warnings
    assert "reach only 900" in warning  # the depth is that of the picture, not of its negative


def test_white_is_zero_in_8_bits_and_in_floating_point(tmp_path):
    values = noise(8, 8)
    np.testing.assert_array_equal(pixels_of(tiff(tmp_path / "x.tif", 255 - values, photometric=0)), values)
    real = (1 - values / np.float32(255)).astype(np.float32)
    np.testing.assert_array_equal(pixels_of(tiff(tmp_path / "y.tif", real, photometric=0)), values)


def test_1_bit(tmp_path):
    values = noise(8, 8, high=2) * 255
    Image.fromarray(values).convert("1").save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "1"
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png"), values)


COLOURS = np.array([[255, 0, 0], [0, 200, 0], [10, 20, 30], [255, 255, 255]], np.uint8)


def palette_image(colours, indices) -> Image.Image:
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    return image


@pytest.mark.parametrize("suffix", ["png", "gif", "bmp"])
def test_palette(tmp_path, suffix):
    indices = noise(8, 8, high=4)
    palette_image(COLOURS, indices).save(tmp_path / f"x.{suffix}")
    np.testing.assert_array_equal(pixels_of(tmp_path / f"x.{suffix}"), COLOURS[indices])


@pytest.mark.parametrize("alpha", [1, bytes([255, 0, 128, 255])])
def test_palette_with_transparency_is_on_black(tmp_path, alpha):
    """A number: that entry is transparent. Bytes: an alpha per entry."""
    indices = noise(8, 8, high=4)
    palette_image(COLOURS, indices).save(tmp_path / "x.png", transparency=alpha)
    expected = COLOURS.copy()
    expected[1] = 0
    if alpha != 1:
        expected[2] = 5, 10, 15  # 128 / 255 of 10, 20, 30
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png"), expected[indices])


def test_transparent_grey_level(tmp_path):
    values = noise(8, 8, high=4)
    png(tmp_path / "x.png", values, (b"tRNS", struct.pack(">H", 3)))
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png"), np.where(values == 3, 0, values))


def test_grey_with_alpha_is_on_black_and_stays_grey(tmp_path):
    values = np.zeros((8, 8, 2), np.uint8)
    values[..., 0], values[..., 1] = 200, 255
    values[0, :3, 1] = 0, 51, 128
    saved(tmp_path / "x.png", values)
    with Image.open(tmp_path / "x.png") as image:
        assert image.mode == "LA"
    expected = np.full((8, 8), 200)
    expected[0, :3] = 0, 40, 100  # 200 * 51 / 255 = 40; 200 * 128 / 255 = 100.4
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png"), expected)


def test_colour_with_alpha_is_on_black(tmp_path):
    values = np.full((8, 8, 4), 255, np.uint8)  # white, and opaque
    values[0, 0] = 255, 255, 255, 0
    values[0, 1] = 255, 100, 50, 51
    values[0, 2] = 10, 20, 30, 255
    expected = np.full((8, 8, 3), 255)
    expected[0, :3] = [[0, 0, 0], [51, 20, 10], [10, 20, 30]]
    np.testing.assert_array_equal(pixels_of(saved(tmp_path / "x.png", values)), expected)


def test_an_alpha_of_0_everywhere_is_no_alpha(tmp_path):
    """A writer that left the channel unset; one pixel that is not clear, and the alpha means what it says."""
    colour, grey = noise(8, 8, 4), noise(8, 8, 2)
    colour[..., 3], grey[..., 1] = 0, 0
    unset = [saved(tmp_path / "colour.png", colour), saved(tmp_path / "grey.png", grey)]
    indices = np.ones((8, 8), np.uint8)
    palette_image(COLOURS, indices).save(tmp_path / "palette.png", transparency=1)
    level = np.full((8, 8), 7, np.uint8)
    unset += [tmp_path / "palette.png", png(tmp_path / "level.png", level, (b"tRNS", struct.pack(">H", 7)))]
    found = [pixels_of(file) for file in unset]
    for got, expected in zip(found, [colour[..., :3], grey[..., 0], COLOURS[indices], level], strict=True):
        np.testing.assert_array_equal(got, expected)
    meant = colour.copy()
    meant[3, 4, 3] = 255
    on_black = np.zeros((8, 8, 3), np.uint8)
    on_black[3, 4] = meant[3, 4, :3]
    np.testing.assert_array_equal(pixels_of(saved(tmp_path / "meant.png", meant)), on_black)
    pixels = decode([*unset, tmp_path / "meant.png"], 8, tmp_path / "c")
    assert pixels.odd == {"flat": [2, 3], "clear": [0, 1, 2, 3], "pages": []}


def test_cmyk_jpeg(tmp_path):
    inks = np.zeros((32, 32, 4), np.uint8)  # white paper
    inks[:16, :16] = 255, 0, 0, 0  # cyan
    inks[:16, 16:] = 0, 255, 255, 0  # magenta and yellow: red
    inks[16:, :16] = 0, 0, 0, 255  # black
    Image.fromarray(inks, "CMYK").save(tmp_path / "x.jpg", quality=100)
    pixels = pixels_of(tmp_path / "x.jpg", 32).astype(int)
    corners = {(4, 4): [0, 255, 255], (4, 28): [255, 0, 0], (28, 4): [0, 0, 0], (28, 28): [255] * 3}
    for place, colour in corners.items():
        assert np.abs(pixels[place] - colour).max() <= 4


# Exif 2.3, tag 0x0112: how the picture that was seen (here: upright) follows from the stored rows and columns
ORIENTED = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),  # clockwise
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", ORIENTED)
def test_exif_orientation(tmp_path, orientation):
    values = noise(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = ORIENTED[orientation](values)
    as_png = saved(tmp_path / "x.png", values, exif=exif)
    as_tiff = saved(tmp_path / "x.tif", values, tiffinfo={274: orientation})
    for file in (as_png, as_tiff):
        np.testing.assert_array_equal(pixels_of(file), expected)
    wide = noise(4, 6)  # a side of 4 becomes the width where the picture is turned; the crop keeps the middle
    expected = ORIENTED[orientation](wide)
    middle = expected[1:5] if orientation > 4 else expected[:, 1:5]
    np.testing.assert_array_equal(pixels_of(saved(tmp_path / "w.png", wide, exif=exif), 4, resize=4), middle)
    blocks = np.kron(noise(2, 2), np.ones((64, 64), np.uint8))  # JPEG, decoded at a quarter of its size
    pixels = pixels_of(saved(tmp_path / "x.jpg", blocks, quality=95, exif=exif), 16)
    upright = ORIENTED[orientation](noise(2, 2)).astype(int)
    assert np.abs(pixels[4::8, 4::8] - upright).max() <= 3


def test_float_tiff(tmp_path):
    values = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    np.testing.assert_array_equal(pixels_of(tiff(tmp_path / "x.tif", values)), np.floor(values * 255 + 0.5))
    wrong = [("over", 1.5, "from 0 to 1.5, not 0 to 1"), ("under", -0.5, "from -0.5"), ("nan", np.nan, "nan")]
    for name, value, reason in wrong:
        values = np.zeros((8, 8), np.float32)
        values[3, 3] = value
        with pytest.raises(ValueError, match=f"floating-point pixels.*{reason}"):
            decode_image(tiff(tmp_path / f"{name}.tif", values), 8)


@pytest.mark.parametrize("suffix", ["tif", "gif"])
def test_several_frames_give_the_first(tmp_path, suffix):
    frames = [palette_image(COLOURS, np.full((8, 8), k, np.uint8)) for k in range(3)]
    frames[0].save(tmp_path / f"x.{suffix}", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / f"x.{suffix}") as image:
        assert image.n_frames == 3
    np.testing.assert_array_equal(pixels_of(tmp_path / f"x.{suffix}"), np.broadcast_to(COLOURS[0], (8, 8, 3)))


def test_what_is_flat_and_what_has_pages_is_counted_and_named(tmp_path):
    """Pages of a TIFF, frames of a WebP and of a PNG: the first is read. One grey level or one colour is flat;
    what is all but one pixel is not."""
    spot = np.full((8, 8), 7, np.uint8)
    spot[7, 7] = 8
    pages = [Image.fromarray(noise(8, 8, 3, seed=k)) for k in range(3)]
    for name, options in {"t.tif": {}, "w.webp": {"lossless": True}, "p.png": {}}.items():
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
        np.testing.assert_array_equal(pixels_of(tmp_path / name), noise(8, 8, 3, seed=0))
    files = [tmp_path / "t.tif", saved(tmp_path / "one.tif", noise(8, 8)), tmp_path / "w.webp", tmp_path / "p.png"]
    files += [saved(tmp_path / "one.webp", noise(8, 8, 3)), saved(tmp_path / "spot.png", spot)]
    files += [saved(tmp_path / "grey.png", np.full((9, 9), 7, np.uint8))]
    files += [saved(tmp_path / "red.png", np.full((8, 8, 3), [200, 0, 0], np.uint8)), tmp_path / "gone.png"]
    for _ in range(2):  # built, and from the cache
        pixels = decode(files, 8, tmp_path / "c")
        assert pixels.odd == {"flat": [6, 7], "clear": [], "pages": [0, 2, 3]}
    names = [file.name for file in files]
    assert pixels.remarks(names, most=2) == [
        "2 of 9 images with one flat value, so nothing to see: grey.png, red.png",
        "3 of 9 images with several pages or frames, of which the first was read: t.tif, w.webp and 1 more",
    ]
    assert replace(pixels, odd={}, warnings=["dark"]).remarks(names) == ["dark"]


def text_chunk(kind: bytes, keyword: bytes, text: bytes) -> tuple[bytes, bytes]:
    head = keyword + (b"\0" if kind == b"tEXt" else b"\0\0" if kind == b"zTXt" else b"\0\0\0\0\0")
    return kind, head + (zlib.compress(text) if kind == b"zTXt" else text)


@pytest.mark.parametrize("place", ["before the pixels", "after them"])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_texts_in_a_png_are_no_reason_to_refuse_it(tmp_path, kind, place):
    """Pillow's limits are 1 MB unpacked for one and 64 MB for all. What says how the picture is turned stays."""
    exif = Image.Exif()
    exif[0x0112] = 6
    chunks = [text_chunk(b"zTXt", b"report", bytes(3_000_000))]
    if kind != b"zTXt":
        chunks = [text_chunk(kind, b"report", b"x" * 900_000)] * 75
    png(tmp_path / "x.png", noise(8, 8, 3), (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")), *chunks)
    if place == "after them":
        data = (tmp_path / "x.png").read_bytes()
        texts, pixels = data.index(chunks[0][0]) - 4, data.index(b"IDAT") - 4
        end = data.index(b"IEND") - 4
        (tmp_path / "x.png").write_bytes(data[:texts] + data[pixels:end] + data[texts:pixels] + data[end:])
    with pytest.raises(ValueError, match="MAX_TEXT"), Image.open(tmp_path / "x.png") as image:
        image.load()
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png"), np.rot90(noise(8, 8, 3), -1))
    assert images.header(tmp_path / "x.png") == ("RGB", 8, 8)


def test_the_orientation_in_a_text_outlives_the_others(tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="3"/></x:xmpmeta>'
    chunks = [text_chunk(b"iTXt", b"XML:com.adobe.xmp", xmp), text_chunk(b"zTXt", b"report", bytes(3_000_000))]
    png(tmp_path / "x.png", noise(8, 8), *chunks)
    np.testing.assert_array_equal(pixels_of(tmp_path / "x.png"), np.rot90(noise(8, 8), 2))
    png(tmp_path / "x.png", noise(8, 8), text_chunk(b"zTXt", b"XML:com.adobe.xmp", xmp + bytes(3_000_000)))
    with pytest.raises(ValueError, match="MAX_TEXT"):  # it may turn the picture: not left out in silence
        decode_image(tmp_path / "x.png", 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_is_listed_and_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as open_socket:
        monkeypatch.chdir(tmp_path)  # the whole path may be too long for a socket
        open_socket.bind("s.png")
        (tmp_path / "zero.png").symlink_to("/dev/zero")
        sources = [tmp_path / "pipe.png", tmp_path / "s.png", tmp_path / "zero.png", noise(8, 8)]
        previous = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits"))
        signal.alarm(20)
        try:
            pixels = decode(sources, 8, tmp_path / "cache/x")
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, previous)
    assert pixels.bad == [(row, "no file but a pipe, a socket or a device") for row in range(3)]
    np.testing.assert_array_equal(pixels.data[3, 0], noise(8, 8))


def test_an_image_without_pixels_is_listed(tmp_path):
    pixels = decode([np.zeros((0, 0), np.uint8), np.zeros((0, 5, 3), np.uint8), noise(8, 8)], 8, tmp_path / "c")
    assert pixels.bad == [(0, "no pixels: 0 x 0"), (1, "no pixels: 5 x 0")]
    assert [row for row, _ in decode([np.zeros((0, 0), np.uint8)], 8, tmp_path / "c", resize=9).bad] == [0]


# ---- sizes ----


def smooth(height, width) -> np.ndarray:
    """A picture without fine detail, as photographs are at this scale."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    channels = [np.sin(9 * x + 4 * y), np.cos(7 * y - 3 * x), np.sin(11 * x * y)]
    return np.uint8(127 + 120 * np.stack(channels, -1))


def resampled(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Triangle filter, widened when it shrinks, by torch: the reference for Pillow's."""
    tensor = torch.from_numpy(values).float().permute(2, 0, 1)[None]
    how = {"mode": "bilinear", "antialias": True, "align_corners": False}
    out = torch.nn.functional.interpolate(tensor, (height, width), **how)
    return out[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("height, width", [(50, 30), (17, 64), (5, 9)])
def test_stretch_takes_the_whole_picture(tmp_path, height, width):
    values = noise(height, width, 3)
    pixels = pixels_of(saved(tmp_path / "x.png", values), 16)
    assert np.abs(pixels - resampled(values, 16, 16)).max() <= 1


def test_resize_then_crop_keeps_the_aspect_and_the_middle(tmp_path):
    values = noise(20, 41)
    file = saved(tmp_path / "x.png", values)
    np.testing.assert_array_equal(pixels_of(file, 20, resize=20), values[:, 10:30])  # (41 - 20) // 2 = 10
    np.testing.assert_array_equal(pixels_of(file, 16, resize=20), values[2:18, 12:28])
    tall = saved(tmp_path / "y.png", values.T.copy())
    np.testing.assert_array_equal(pixels_of(tall, 16, resize=20), values[2:18, 12:28].T)
    colour = noise(40, 60, 3)  # shorter side 40 -> 20, so 60 -> 30; the middle 16 x 16 of 20 x 30
    pixels = pixels_of(saved(tmp_path / "z.png", colour), 16, resize=20)
    assert np.abs(pixels - resampled(colour, 20, 30)[2:18, 7:23]).max() <= 1


SHAPES = [(1, 200_000), (200_000, 1), (3, 90_000), (40_000, 2)]


@pytest.mark.parametrize("resize", [None, 224, 256])
@pytest.mark.parametrize("height, width", SHAPES)
def test_no_step_of_a_resize_is_larger_than_the_cap(height, width, resize, monkeypatch):
    """1 x 200,000 brought to a shorter side of 224 would have ten thousand million pixels. A ramp along the long
    side shows which part is left: all of it, or the middle."""
    ramp = np.linspace(0, 255, max(height, width)).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(ramp[:, None] if height > width else ramp, (height, width)).copy())
    made, real = [], Image.Image.resize

    def resize_(image, size, *how, **more):
        made.append((image.size, tuple(size)))
        return real(image, size, *how, **more)

    monkeypatch.setattr(Image.Image, "resize", resize_)
    out = np.asarray(images.fit(picture, 224, resize))
    for (w, h), (new_w, new_h) in made:
        between = new_w * h if new_w != w else 0  # Pillow's own: the width first
        assert max(new_w * new_h, between) <= max(MOST_PIXELS, width * height)
    along = out.mean(axis=1 if height > width else 0)
    if resize is None:
        np.testing.assert_allclose(along, (np.arange(224) + 0.5) / 224 * 255, atol=1)
    else:
        assert np.abs(out.astype(int) - 127).max() <= 1 and out.shape == (224, 224)


@pytest.mark.parametrize("height, width, size, resize", [(9, 301, 20, 24), (300, 8, 30, 30), (64, 901, 20, 24)])
def test_the_middle_that_is_cut_out_first_is_the_one_that_would_be_left(height, width, size, resize, monkeypatch):
    """Against the same without a cap: within the rounding of the scaled sides, which is less than a pixel of the
    result."""
    picture = Image.fromarray(smooth(height, width))
    whole = np.asarray(images.fit(picture, size, resize)).astype(int)
    monkeypatch.setattr(images, "MOST_PIXELS", 100)
    made, real = [], Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda i, *a, **k: (made.append(i.size), real(i, *a, **k))[1])
    cut = np.asarray(images.fit(picture, size, resize)).astype(int)
    assert max(made[0]) < max(height, width) / 2 and cut.shape == whole.shape
    slope = max(np.abs(np.diff(whole, axis=axis)).max() for axis in (0, 1))
    assert np.abs(cut - whole).max() <= slope + 1


@pytest.mark.parametrize("resize", [None, 40])
@pytest.mark.parametrize("height, width, most", [(704, 896, 6), (697, 897, 24)])
def test_jpeg_draft_is_close_to_a_full_decode(tmp_path, resize, height, width, most):
    """Sides that are no multiple of 8 come up to 7 pixels too long out of an eighth: 1 % here, in 120 grey
    levels over a tenth of the side at the steepest."""
    values = smooth(height, width)
    jpeg = saved(tmp_path / "x.jpg", values, quality=95)
    with Image.open(jpeg) as image:
        full = np.asarray(image)
    decoded = pixels_of(jpeg, 32, resize=resize).astype(int)
    exact = pixels_of(full, 32, resize=resize)  # an array is not drafted
    assert np.abs(decoded - exact).max() <= most and np.abs(decoded - exact).mean() < most / 6


def test_jpeg_draft_saves_the_decoding(tmp_path, monkeypatch):
    jpeg = saved(tmp_path / "x.jpg", smooth(800, 800))
    sizes, fit = [], images.fit
    monkeypatch.setattr(images, "fit", lambda image, *rest: (sizes.append(image.size), fit(image, *rest))[1])
    for size, resize in ((32, None), (100, None), (300, None), (32, 200)):
        decode_image(jpeg, size, resize)
    # The smallest eighth that is twice the size
    assert sizes == [(100, 100), (200, 200), (800, 800), (400, 400)]


def test_tiny_and_odd_shapes(tmp_path):
    for shape in ((1, 1), (1, 50), (50, 1), (2, 3)):
        file = saved(tmp_path / "x.png", np.full(shape, 77, np.uint8))
        assert (pixels_of(file, 16) == 77).all() and (pixels_of(file, 16, resize=20) == 77).all()


def test_large_images(tmp_path):
    largest = np.full((4000, 6000), 99, np.uint8)  # of ISIC 2020
    jpeg = saved(tmp_path / "x.jpg", largest)
    bomb = png(tmp_path / "bomb.png", noise(2, 2), size=(30000, 30000))
    pixels = decode([jpeg, bomb], 16, tmp_path / "c")
    assert (pixels.data[0] == 99).all()
    assert [row for row, _ in pixels.bad] == [1] and "900000000 pixels" in pixels.bad[0][1]
    assert pixels.found == "1 L; widths 6000-6000, heights 4000-4000"


# ---- all, and the cache ----


def test_greyscale_stays_one_channel_and_a_mixture_has_three(tmp_path):
    grey, colour = noise(8, 9), noise(7, 5, 3)
    files = [
        saved(tmp_path / "g.png", grey),
        png(tmp_path / "h.png", noise(8, 8, high=65536, dtype=np.uint16)),
        saved(tmp_path / "c.png", colour),
    ]
    alone = decode(files[:2], 8, tmp_path / "cache")
    assert alone.data.shape == (2, 1, 8, 8) and alone.data.dtype == torch.uint8
    assert alone.found == "1 L, 1 I;16; widths 8-9, heights 8-8"
    mixed = decode(files, 8, tmp_path / "cache")
    assert mixed.data.shape == (3, 3, 8, 8) and mixed.bad == []
    assert (mixed.data[:2] == alone.data).all()  # each channel of the three
    np.testing.assert_array_equal(mixed.data[2], decode_image(files[2], 8)[0])
    assert mixed.found == "1 L, 1 I;16, 1 RGB; widths 5-9, heights 7-8"


def test_arrays_are_decoded_like_files(tmp_path):
    arrays = [noise(8, 8, seed=k) for k in range(3)]
    pixels = decode(arrays, 8, tmp_path / "c")
    np.testing.assert_array_equal(pixels.data[:, 0], np.stack(arrays))
    assert pixels.found == "3 L; widths 8-8, heights 8-8" and pixels.identical == []
    mixed = decode([arrays[0], noise(8, 8, 3), arrays[0].copy()], 8, tmp_path / "c")
    np.testing.assert_array_equal(mixed.data[0], np.stack([arrays[0]] * 3))
    np.testing.assert_array_equal(mixed.data[1], noise(8, 8, 3).transpose(2, 0, 1))
    assert mixed.identical == [[0, 2]]


def test_unreadable_images_are_all_listed_with_their_reasons(tmp_path):
    good = saved(tmp_path / "good.png", noise(8, 8))
    files = {kind: saved(tmp_path / f"w.{kind}", noise(64, 64, 3)) for kind in ("png", "jpg", "tif", "bmp")}
    whole = {kind: file.read_bytes() for kind, file in files.items()}
    cases = {"zero.png": b"", "zero2.png": b"", "text.png": b"this is no image"}
    cases["head.jpg"] = whole["jpg"][:10]
    cases |= {f"cut.{kind}": content[: len(content) // 2] for kind, content in whole.items()}
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
    tiff(tmp_path / "float.tif", np.full((8, 8), 3, np.float32))
    names = [*cases, "float.tif"]
    pixels = decode([good, *(tmp_path / name for name in names), good], 8, tmp_path / "c", workers=3)
    reasons = dict(pixels.bad)
    words = dict.fromkeys(("zero", "zero2", "text"), "cannot identify")
    words |= {"head": "truncated", "cut": "truncated", "float": "floating-point pixels"}
    assert sorted(reasons) == list(range(1, len(names) + 1)) == [row for row, _ in pixels.bad]
    for row, name in enumerate(names, 1):
        kind = name.partition(".")[0]
        assert words[kind] in reasons[row].lower() and "\n" not in reasons[row], (name, reasons[row])
        assert (pixels.data[row] == 0).all()
    np.testing.assert_array_equal(pixels.data[0], pixels.data[-1])
    assert pixels.data[0].any()
    assert pixels.identical == [[0, len(names) + 1]]  # two empty files are no images, and not the same image
    again = decode([good, *(tmp_path / name for name in names), good], 8, tmp_path / "c")
    assert again.bad == pixels.bad  # the list comes with the cache


def test_what_cannot_be_read_is_not_compared(tmp_path):
    """A folder of the name of an image stands for any file that the system refuses to open."""
    for name in ("x.png", "y.png"):
        (tmp_path / name).mkdir()
    pixels = decode([tmp_path / "x.png", tmp_path / "y.png", noise(8, 8)], 8, tmp_path / "c")
    assert [row for row, _ in pixels.bad] == [0, 1] and "Is a directory" in pixels.bad[0][1]


def test_a_link_to_nowhere_is_listed_as_unreadable(tmp_path):
    good = saved(tmp_path / "a.png", noise(8, 8))
    (tmp_path / "b.png").symlink_to(tmp_path / "gone.png")
    pixels = decode([good, tmp_path / "b.png", tmp_path / "never.png"], 8, tmp_path / "cache")
    assert [row for row, _ in pixels.bad] == [1, 2] and "No such file" in pixels.bad[0][1]
    assert identical_images([good, tmp_path / "b.png", tmp_path / "never.png"]) == []
    saved(tmp_path / "gone.png", noise(8, 8, seed=1))
    pixels = decode([good, tmp_path / "b.png"], 8, tmp_path / "cache")
    assert pixels.bad == []


def refusing(monkeypatch, name, error, calls):
    """The system refuses files of that name in images.<calls>, as long as errors are left."""
    real, errors = getattr(images, calls), [error]

    def function(source, *arguments):
        if errors and Path(source).name == name:
            raise errors[0]
        return real(source, *arguments)

    monkeypatch.setattr(images, calls, function)
    return errors


REFUSALS = [
    (PermissionError(errno.EACCES, "Permission denied", "b.png"), "Permission denied"),
    (OSError(errno.EIO, "Input/output error"), "Input/output error"),
    (OSError(errno.ESTALE, "Stale file handle"), "Stale file handle"),
    (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
    # It was there
    (FileNotFoundError(errno.ENOENT, "No such file or directory"), "No such file or directory"),
    (MemoryError(), "out of memory"),
]


@pytest.mark.parametrize("calls", ["header", "decode_image"])
@pytest.mark.parametrize("error, reason", REFUSALS)
def test_what_the_system_refuses_is_not_remembered_as_unreadable(tmp_path, monkeypatch, calls, error, reason):
    """Nor is it left out beside what is damaged: no file of it is known to be."""
    files = [saved(tmp_path / f"{name}.png", noise(8, 8, seed=ord(name))) for name in "abc"]
    (tmp_path / "d.png").write_bytes(files[0].read_bytes()[:60])
    files.append(tmp_path / "d.png")
    errors = refusing(monkeypatch, "b.png", error, calls)
    with pytest.raises(images.ReadError) as caught:
        decode(files, 8, tmp_path / "cache/x")
    said = str(caught.value)
    assert said.startswith("1 of 4 images could not be read now") and f"{files[1]}: {reason};" in said
    assert "\n" not in said and "d.png" not in said
    assert list((tmp_path / "cache").iterdir()) == []
    errors.clear()
    pixels = decode(files, 8, tmp_path / "cache/x")
    assert [row for row, _ in pixels.bad] == [3]
    np.testing.assert_array_equal(pixels.data[1, 0], noise(8, 8, seed=ord("b")))


DAMAGE = [
    OSError("image file is truncated (3 bytes not processed)"),
    OSError(-2),
    OSError(errno.EINVAL, "Invalid argument"),  # an offset in the file before its beginning
    SyntaxError("broken PNG file"),
    Image.DecompressionBombError("too large"),
]


@pytest.mark.parametrize("error", DAMAGE)
def test_damage_is_remembered(tmp_path, monkeypatch, error):
    files = [saved(tmp_path / f"{name}.png", noise(8, 8)) for name in "ab"]
    refusing(monkeypatch, "b.png", error, "decode_image")
    assert [row for row, _ in decode(files, 8, tmp_path / "cache/x").bad] == [1]
    assert [row for row, _ in decode(files, 8, tmp_path / "cache/x").bad] == [1]


def test_all_that_the_system_refuses_is_named_and_long_lists_are_cut(tmp_path, monkeypatch):
    files = [saved(tmp_path / f"{k}.png", noise(8, 8)) for k in range(13)]

    def stat(path, *arguments, **more):
        if str(path).startswith(str(tmp_path / "1")):  # 1, 10, 11, 12
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *arguments, **more)

    real = os.stat
    monkeypatch.setattr(images.os, "stat", stat)
    with pytest.raises(images.ReadError, match="^4 of 13 images") as caught:
        decode(files, 8, tmp_path / "cache/x")
    assert all(f"{tmp_path / str(k)}.png: Permission denied" in str(caught.value) for k in (1, 10, 11, 12))

    def no_memory(source):
        raise MemoryError

    monkeypatch.setattr(images.os, "stat", real)
    monkeypatch.setattr(images, "header", no_memory)
    with pytest.raises(images.ReadError, match="^13 of 13 images .* and 3 more; fix that") as caught:
        decode(files, 8, tmp_path / "cache/x")
    assert str(caught.value).count("out of memory") == 10


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission_is_refused_and_read_when_it_has_it(tmp_path):
    files = [saved(tmp_path / f"{k}.png", noise(8, 8, seed=k)) for k in range(2)]
    files[1].chmod(0)
    with pytest.raises(images.ReadError, match="Permission denied"):
        decode(files, 8, tmp_path / "cache/x")
    files[1].chmod(0o644)
    assert decode(files, 8, tmp_path / "cache/x").bad == []


def test_a_copy_that_cannot_be_compared_is_no_lone_image(tmp_path, monkeypatch):
    """Two equal files of which one is refused: no list of copies is made without it."""
    files = [saved(tmp_path / f"{k}.png", noise(8, 8)) for k in range(2)]

    def getsize(path):
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(images.os.path, "getsize", getsize)
    with pytest.raises(OSError, match="Input/output error"):
        identical_images(files)


def test_a_disk_without_room_is_said_before_decoding(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10**5))
    files = [saved(tmp_path / f"{i}.png", noise(8, 8, seed=i)) for i in range(2)]
    with pytest.raises(images.CacheError) as caught:
        decode(files, 224, tmp_path / "cache/x")
    assert str(caught.value) == (f"the decoded images need 0.0 GB in {tmp_path / 'cache'}, 0.0 GB are free")
    assert isinstance(caught.value, ValueError) and list((tmp_path / "cache").iterdir()) == []
    assert decode(files, 8, tmp_path / "cache/x").bad == []


def test_a_disk_that_fills_up_is_an_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", full)
    files = [saved(tmp_path / "a.png", noise(8, 8))]
    number = errno.ENOSPC
    with pytest.raises(images.CacheError, match="are free: No space left on device"):
        decode(files, 8, tmp_path / "cache/x")
    assert list((tmp_path / "cache").iterdir()) == []
    number = errno.EINVAL  # a file system that cannot reserve
    assert decode(files, 8, tmp_path / "cache/x").bad == []


def test_digest_follows_the_pixels_and_their_order(tmp_path):
    a, b = noise(8, 8), noise(8, 8, seed=1)
    files = [saved(tmp_path / "a.png", a), saved(tmp_path / "b.png", b)]
    (tmp_path / "bad.png").write_bytes(b"no picture")

    def digest(*sources, size=8, workers=2):
        return decode(sources, size, tmp_path / f"cache{workers}", workers=workers).digest

    assert digest(*files) == digest(*files) == digest(*files, workers=1) == digest(a, b)
    others = [digest(b, a), digest(a), digest(a, b, size=4), digest(a, np.zeros_like(b))]
    others += [digest(files[0], tmp_path / "bad.png"), digest(np.stack([a] * 3, 2), b)]
    assert len({digest(a, b), *others}) == 7


@pytest.mark.parametrize("write", [png, tiff])
def test_16_bit_colour_is_named_and_has_no_bit_depth(tmp_path, write):
    values = noise(8, 8, 3, high=4096, dtype=np.uint16)
    files = [write(tmp_path / "a", values), write(tmp_path / "b", values[..., 0])]
    assert images.header(files[0]) == ("RGB;16", 8, 8)
    pixels = decode(files, 8, tmp_path / "cache")
    assert pixels.bad == [] and "1 RGB;16" in pixels.found
    pixels = decode(files, 8, tmp_path / "cache", bits=12)
    assert pixels.bad == [(0, "16-bit colour is read at full depth; --bit-depth is for grey")]


def test_nothing_readable(tmp_path):
    (tmp_path / "x.png").write_bytes(b"")
    pixels = decode([tmp_path / "x.png"], 8, tmp_path / "c")
    assert len(pixels.bad) == 1 and pixels.identical == [] and pixels.data.shape == (1, 1, 8, 8)


def test_identical_images(tmp_path):
    contents = [b"abcd", b"abce", b"abcd", b"xyz", b"abcd", b"xyz", b"other", b""]
    for i, content in enumerate(contents):
        (tmp_path / str(i)).write_bytes(content)
    assert identical_images([tmp_path / str(i) for i in range(8)]) == [[0, 2, 4], [3, 5]]
    same = noise(4, 4)
    assert identical_images([same, same.reshape(2, 8), same.copy(), same.T.copy()]) == [[0, 2]]


class Counted:
    """progress(done, total): how many images were decoded."""

    def __init__(self):
        self.calls = []

    def __call__(self, done, total):
        self.calls.append((done, total))


def test_the_cache_is_met_again_and_missed_after_any_change(tmp_path, monkeypatch):
    files = [saved(tmp_path / f"{k}.bmp", noise(8, 8, seed=k)) for k in range(3)]  # BMP: one size in bytes

    def decoded(sources=files, size=8, **rules):
        counted = Counted()
        pixels = decode(sources, size, tmp_path / "runs/cache", progress=counted, **rules)
        assert counted.calls in ([], [(k, len(sources)) for k in range(1, len(sources) + 1)])
        return pixels, len(counted.calls)

    first, count = decoded()
    assert count == 3
    again, count = decoded()
    assert count == 0 and (again.data == first.data).all() and again.seconds == first.seconds
    assert decoded(size=4)[1] == decoded(resize=9)[1] == decoded(resize=10)[1] == decoded(bits=12)[1] == 3
    assert decoded(sources=files[::-1])[1] == 3 and decoded(sources=files[:2])[1] == 2
    assert len(list((tmp_path / "runs").iterdir())) == 7

    saved(files[1], noise(8, 8, seed=9))  # other content of the same size, a second later
    os.utime(files[1], (files[1].stat().st_atime, files[1].stat().st_mtime + 1))
    changed, count = decoded()
    assert count == 3
    np.testing.assert_array_equal(changed.data[1, 0], noise(8, 8, seed=9))
    time = files[2].stat().st_mtime_ns  # another size in bytes at the same time
    saved(files[2], noise(8, 9))
    os.utime(files[2], ns=(time, time))
    assert decoded()[1] == 3
    monkeypatch.setattr(images, "RULES", images.RULES + 1)
    assert decoded()[1] == 3 and decoded()[1] == 0


def changed(file, at, by=1):
    data = bytearray(file.read_bytes())
    data[at] ^= by
    file.write_bytes(data)


DAMAGES = {
    "a bit of the pixels": lambda f: changed(f / "pixels.npy", 128 + 70),
    "a bit of their shape": lambda f: changed(f / "pixels.npy", f.joinpath("pixels.npy").read_bytes().index(b"(4")),
    "half of the pixels": lambda f: os.truncate(f / "pixels.npy", 200),
    "no pixels": lambda f: (f / "pixels.npy").unlink(),
    "empty pixels": lambda f: (f / "pixels.npy").write_bytes(b""),
    "pickled pixels": lambda f: np.save(f / "pixels.npy", np.array([{}], object), allow_pickle=True),
    "other pixels": lambda f: np.save(f / "pixels.npy", np.zeros((4, 1, 8, 8), np.uint8)),
    "no list": lambda f: (f / "pixels.json").unlink(),
    "half of the list": lambda f: os.truncate(f / "pixels.json", 20),
    "no object": lambda f: (f / "pixels.json").write_text("[]"),
    "a deep list": lambda f: (f / "pixels.json").write_text("[" * 100_000),
    "another reason": lambda f: changed(f / "pixels.json", (f / "pixels.json").read_bytes().index(b"identify"), 2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_cache_is_said_and_built_anew(tmp_path, damage):
    files = [saved(tmp_path / f"{k}.png", noise(8, 8, seed=k)) for k in range(3)] + [tmp_path / "bad.png"]
    files[3].write_bytes(b"no picture")
    whole = decode(files, 8, tmp_path / "cache/x")
    assert whole.warnings == []
    whole.data = whole.data.clone()  # it is mapped from the file
    (folder,) = (tmp_path / "cache").iterdir()
    DAMAGES[damage](folder)
    counted = Counted()
    again = decode(files, 8, tmp_path / "cache/x", progress=counted)
    (warning,) = again.warnings
    assert warning.startswith(f"the decoded images in {folder} were damaged (") and "decoded anew" in warning
    assert len(counted.calls) == 4 and torch.equal(again.data, whole.data)
    assert (again.digest, again.bad, again.identical) == (whole.digest, whole.bad, whole.identical)
    last = decode(files, 8, tmp_path / "cache/x", progress=counted)
    assert last.warnings == [] and len(counted.calls) == 4
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_the_hash_of_the_pixels_is_of_each_image_in_order(tmp_path):
    """What runs were compared by from the first version on: blake2b of the shape, then of each image's hash."""
    arrays = [noise(8, 8, seed=k) for k in range(150)]
    digest = hashlib.blake2b(b"(150, 1, 8, 8)", digest_size=8)
    for array in arrays:
        digest.update(hashlib.blake2b(array.tobytes(), digest_size=16).digest())
    for _ in range(2):  # built, and held against it
        pixels = decode(arrays, 8, tmp_path / "c", workers=3)
        assert pixels.digest == digest.hexdigest() and pixels.warnings == []


def killed(files, cache):
    """A process that dies in the midst of decoding, as by a power cut."""

    def die(done, total):
        if done == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    decode(files, 8, cache, progress=die)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_had_half_built_is_removed_and_what_is_being_built_stays(tmp_path):
    files = [saved(tmp_path / f"{k}.png", noise(8, 8, seed=k)) for k in range(3)]
    cache, context = tmp_path / "cache", multiprocessing.get_context("fork")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork beside threads
        process = context.Process(target=killed, args=(files, cache / "x"))
        process.start()
    process.join(20)
    assert process.exitcode == -signal.SIGKILL
    (left,) = cache.iterdir()
    assert (left / "pixels.npy").is_file() and left.suffix == ".tmp"
    found = []
    decode(files, 8, cache / "x", progress=lambda done, total: found.append(sorted(cache.iterdir())))
    assert all(len(there) == 1 and there != [left] for there in found)  # the one that is being built
    (folder,) = cache.iterdir()
    assert folder.suffix == "" and sorted(p.name for p in folder.iterdir()) == ["pixels.json", "pixels.npy"]

    def meanwhile(done, total):  # another data set of the same folder, in this process: the lock is taken
        (mine,) = cache.glob("y-*.tmp")
        decode(files[:1], 8, cache / "z")
        assert (mine / "pixels.npy").is_file()

    assert decode(files, 8, cache / "y", progress=meanwhile).bad == []


def test_others_half_built_folders_go_after_a_day(tmp_path):
    """Of other machines, and of earlier versions, which did not say whose they are."""
    files = [saved(tmp_path / "a.png", noise(8, 8))]
    decode(files, 8, tmp_path / "cache/x")
    (folder,) = (tmp_path / "cache").iterdir()
    names = [f"{folder.name}.elsewhere.0123abcd.tmp", f"{folder.name}.0123abcd.tmp", "mine.tmp", "x-8px-notes.tmp"]
    others = [folder.with_name(name) for name in names]
    for other in others:
        other.mkdir()
        (other / "lock").write_text("locked")
    decode(files, 8, tmp_path / "cache/x")
    assert all(other.is_dir() for other in others)
    old = folder.stat().st_mtime - 100_000
    for other in others:
        for path in (other / "lock", other):
            os.utime(path, (old, old))
    os.utime(others[0] / "lock")  # somebody still writes there
    decode(files, 8, tmp_path / "cache/x")
    assert [other.is_dir() for other in others] == [True, False, True, True]


def test_the_cache_of_arrays_follows_their_content(tmp_path):
    arrays = [noise(8, 8), noise(8, 8, seed=1)]
    decode(arrays, 8, tmp_path / "c")
    arrays[1][3, 3] ^= 1
    np.testing.assert_array_equal(decode(arrays, 8, tmp_path / "c").data[1, 0], arrays[1])
    assert len(list(tmp_path.iterdir())) == 2


def test_the_cache_is_not_changed_by_who_writes_into_it(tmp_path):
    pixels = decode([noise(8, 8)], 8, tmp_path / "c")
    pixels.data.zero_()
    np.testing.assert_array_equal(decode([noise(8, 8)], 8, tmp_path / "c").data[0, 0], noise(8, 8))


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, OSError])
def test_a_failure_leaves_no_folder_behind(tmp_path, failure):
    files = [saved(tmp_path / f"{k}.png", noise(8, 8, seed=k)) for k in range(4)]

    def stop(done, total):
        assert len(list((tmp_path / "cache").iterdir())) == 1
        if done == 2:
            raise failure("stopped")

    with pytest.raises(failure, match="stopped"):
        decode(files, 8, tmp_path / "cache/x", progress=stop)
    assert list((tmp_path / "cache").iterdir()) == []
    assert decode(files, 8, tmp_path / "cache/x").bad == []


def test_left_overs_of_a_killed_process_are_no_obstacle(tmp_path):
    files = [saved(tmp_path / "x.png", noise(8, 8))]
    decode(files, 8, tmp_path / "cache/x")
    (folder,) = (tmp_path / "cache").iterdir()
    folder.rename(folder.with_name(f"{folder.name}.0123abcd.tmp"))
    (tmp_path / f"cache/{folder.name}.0123abcd.tmp/pixels.json").unlink()
    np.testing.assert_array_equal(decode(files, 8, tmp_path / "cache/x").data[0, 0], noise(8, 8))


def test_a_faster_process_wins(tmp_path):
    """While one decodes, another finishes the same folder."""
    files = [saved(tmp_path / f"{k}.png", noise(8, 8, seed=k)) for k in range(3)]
    done_by_other = []

    def other(done, total):
        if done == total:
            done_by_other.append(decode(files, 8, tmp_path / "cache/x"))

    mine = decode(files, 8, tmp_path / "cache/x", progress=other)
    assert (mine.data == done_by_other[0].data).all() and mine.seconds == done_by_other[0].seconds
    assert [p.suffix for p in (tmp_path / "cache").iterdir()] == [""]


def build(files, cache, barrier, results):
    """One of two processes: both are in the midst of decoding before either can finish."""

    def meet(done, total):
        if done == 1:
            barrier.wait(20)

    try:
        results.put(int(decode(files, 8, cache, progress=meet).data.sum()))
    except Exception as error:  # noqa: BLE001  told to the test
        results.put(repr(error))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_two_processes_build_at_once(tmp_path):
    files = [saved(tmp_path / f"{k}.png", noise(8, 8, seed=k)) for k in range(5)]
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fork beside threads
        arguments = (files, tmp_path / "cache/x", barrier, results)
        both = [context.Process(target=build, args=arguments) for _ in range(2)]
        for process in both:
            process.start()
    sums = [results.get(timeout=20) for _ in both]
    for process in both:
        process.join(20)
    assert sums == [sum(int(noise(8, 8, seed=k).sum()) for k in range(5))] * 2
    (folder,) = (tmp_path / "cache").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["pixels.json", "pixels.npy"]
    assert json.loads((folder / "pixels.json").read_text())["meta"]["bad"] == []


def test_warnings_of_the_process_are_left_as_they_were(tmp_path, monkeypatch):
    """warnings.catch_warnings is not made for threads: two that cross leave the filter of one behind."""
    crossing = threading.Barrier(2)
    fit = images.fit

    def slow(*arguments):
        crossing.wait(10)
        return fit(*arguments)

    monkeypatch.setattr(images, "fit", slow)
    before = list(warnings.filters)
    for k in range(20):
        decode([noise(8, 8, seed=k), noise(8, 8, seed=k + 1)], 8, tmp_path / "c", workers=2)
        assert list(warnings.filters) == before


# ---- near copies ----


def test_thumbnails_by_numpy():
    data = noise(5, 3, 32, 32)
    grey = np.einsum("nchw,c->nhw", data.astype(float), (0.299, 0.587, 0.114))
    small = grey.reshape(5, 16, 2, 16, 2).mean(axis=(2, 4)).reshape(5, 256)
    got = images.thumbnails(torch.from_numpy(data))
    np.testing.assert_allclose(got @ got.T, np.corrcoef(small), atol=1e-5)
    flat = torch.full((2, 1, 24, 24), 90, dtype=torch.uint8)
    flat[1, 0, :2] += 1  # hardly more than flat
    assert not images.thumbnails(flat).any()


def test_near_copies_are_found_across_splits_and_nothing_else(tmp_path):
    """Photographs that differ, and of some of them a copy: recompressed, smaller, brighter, cropped by two pixels, a
    grey one. What is alike within a split, black, or in no split is not named; of a test image the train or
    validation image that is most alike is."""
    rng = np.random.default_rng(0)

    def photograph(k):
        blobs = np.zeros((96, 128, 3))
        y, x = np.mgrid[:96, :128]
        for _ in range(25):
            at, width = rng.uniform((0, 0), (96, 128)), rng.uniform(8, 30)
            blobs += rng.normal(0, 60, 3) * np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / width**2)[..., None]
        return Image.fromarray(np.clip(110 + blobs, 0, 230).astype(np.uint8))

    pictures = [photograph(k) for k in range(40)]
    files = [tmp_path / f"{k}.png" for k in range(40)]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    copies = {  # of 0, 1, ...
        "a.jpg": lambda p: p.save(tmp_path / "a.jpg", quality=30),
        "b.png": lambda p: p.resize((64, 48)).save(tmp_path / "b.png"),
        "c.png": lambda p: p.point(lambda v: v * 1.1).save(tmp_path / "c.png"),
        "d.png": lambda p: p.crop((2, 2, 128, 96)).save(tmp_path / "d.png"),
        "e.png": lambda p: p.convert("L").save(tmp_path / "e.png"),
        "f.png": lambda p: p.save(tmp_path / "f.png", compress_level=0),
    }
    for (name, write), picture in zip(copies.items(), pictures, strict=False):
        write(picture)
        files.append(tmp_path / name)
    for name in ("black.png", "black2.png"):
        files.append(saved(tmp_path / name, np.zeros((96, 128), np.uint8)))
    data = decode(files, 48, tmp_path / "c").data
    sides = np.array(["train"] * 30 + ["val"] * 10 + ["test"] * 4 + ["val", "", "train", "test"])
    found = images.near_copies(data, sides)
    assert sorted((i, j) for i, j, _ in found) == [(40, 0), (41, 1), (42, 2), (43, 3), (44, 4)]
    assert all(0.99 < r <= 1.0001 for _, _, r in found)
    sides[0], sides[40] = "val", "train"  # the other way round
    assert (0, 40) in [(i, j) for i, j, _ in images.near_copies(data, sides)]
    sides[:] = "train"
    assert images.near_copies(data, sides) == []


# ---- batches ----

NOTHING = Augmentation(flip=0.0, shift=0.0, brightness=0.0, contrast=0.0)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_batch(n=4, channels=3, side=8, seed=0) -> torch.Tensor:
    return torch.rand(n, channels, side, side, generator=seeded(seed))


@pytest.fixture
def extreme(monkeypatch):
    """augmented() with every random number at its upper end (u = 1): each parameter is at its full amount,
    flip apart (1 is never below the chance of a flip, except when that is 1)."""

    def run(tensor, **amounts):
        monkeypatch.setattr(torch, "rand", lambda *shape, generator=None: torch.full(shape, 1 - 2**-24))
        return augmented(tensor, replace(NOTHING, **amounts), None)

    return run


def test_batch_normalises_by_hand():
    data = torch.tensor([[[[0, 255]]], [[[51, 102]]]], dtype=torch.uint8)  # (2, 1, 1, 2)
    mean, std = (0.5, 0.2, 0.0), (0.5, 0.1, 2.0)
    out = batch(data, [1, 0], "cpu", mean=mean, std=std)
    assert out.shape == (2, 3, 1, 2) and out.dtype == torch.float32
    expected = [[[-0.6, -0.2]], [[0.0, 2.0]], [[0.1, 0.2]]], [[[-1.0, 1.0]], [[-2.0, 8.0]], [[0.0, 0.5]]]
    torch.testing.assert_close(out, torch.tensor(expected), atol=1e-6, rtol=0)


def test_batch_uses_the_figures_of_imagenet():
    data = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    white = [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225]
    torch.testing.assert_close(batch(data, [0], "cpu")[0, :, 0, 0], torch.tensor(white))
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize("augment", AUGMENT)
def test_greyscale_is_three_equal_channels(augment):
    grey = torch.from_numpy(noise(5, 1, 16, 16))
    wide = grey.expand(5, 3, 16, 16).contiguous()
    one, three = (batch(x, np.arange(5), "cpu", augment=augment, generator=seeded()) for x in (grey, wide))
    torch.testing.assert_close(one, three, atol=1e-5, rtol=0)
    plain = one * torch.tensor(IMAGENET_STD)[:, None, None] + torch.tensor(IMAGENET_MEAN)[:, None, None]
    torch.testing.assert_close(plain[:, 0], plain[:, 2], atol=1e-5, rtol=0)


@pytest.mark.parametrize("flip", [None, *FLIP])
@pytest.mark.parametrize("augment", AUGMENT)
@pytest.mark.parametrize("side", [8, 33, 64])
def test_grey_has_the_same_bits_in_a_store_of_three_channels(side, augment, flip):
    """One colour image in the test set makes the whole store three channels wide; a batch of grey ones must not
    notice, nor a grey image its neighbours. A colour image has the bits that it has without grey ones."""
    data = torch.from_numpy(noise(6, 1, side, side))
    colour = torch.from_numpy(noise(2, 3, side, side, seed=1))
    store = torch.cat([data.expand(6, 3, side, side), colour])
    grey = np.array([True] * 6 + [False] * 2)

    def drawn(data, rows, grey=None):
        how = {"augment": augment, "flip": flip, "generator": seeded(3)}
        return batch(data, rows, "cpu", grey=None if grey is None else grey[rows], **how)

    rows = [5, 0, 3, 2]
    one, wide = drawn(data, rows), drawn(store, rows, grey)
    assert torch.equal(one, wide) and one.stride() == wide.stride()
    mixed = drawn(store, [5, 0, 7, 2], grey)
    assert torch.equal(mixed[[0, 1, 3]], one[[0, 1, 3]])
    assert torch.equal(mixed[2], drawn(store, [5, 0, 7, 2])[2])


def test_which_images_are_grey_is_kept(tmp_path):
    files = [saved(tmp_path / "a.png", noise(8, 8)), saved(tmp_path / "b.png", noise(8, 8, 3)), tmp_path / "gone.png"]
    for _ in range(2):  # built, and from the cache
        assert decode(files, 8, tmp_path / "c").grey.tolist() == [True, False, True]
        assert decode(files[:1], 8, tmp_path / "c").grey.tolist() == [True]


@pytest.mark.parametrize("augment", AUGMENT)
@pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0, 2]])
def test_the_source_is_left_as_it_was(augment, rows):
    data = torch.from_numpy(noise(3, 1, 8, 8))
    before = data.clone()
    batch(data, np.array(rows), "cpu", augment=augment, generator=seeded())
    assert torch.equal(data, before) and data.dtype == torch.uint8


def test_batch_without_augmentation_takes_the_rows_asked_for():
    data = torch.from_numpy(noise(6, 3, 4, 4))
    out = batch(data, np.array([4, 4, 1]), "cpu", mean=(0, 0, 0), std=(1, 1, 1))
    torch.testing.assert_close(out, data[[4, 4, 1]] / 255.0)


@pytest.mark.parametrize("augment", ["light", "strong"])
def test_each_image_has_parameters_of_its_own(augment):
    """Two copies of an image in one batch come out different, in geometry and in brightness."""
    data = torch.from_numpy(noise(1, 3, 16, 16))
    out = batch(data, [0] * 6, "cpu", augment=augment, generator=seeded())
    for i in range(6):
        for j in range(i):
            assert (out[i] - out[j]).abs().mean() > 0.01
    flat = torch.full((1, 1, 8, 8), 128, dtype=torch.uint8)  # geometry does not show on it: brightness must
    levels = batch(flat, [0] * 6, "cpu", augment=augment, generator=seeded())[:, 0, 0, 0]
    assert len(set(levels.tolist())) == 6


@pytest.mark.parametrize("augment", ["light", "strong"])
def test_the_same_generator_gives_the_same_batch(augment):
    data = torch.from_numpy(noise(4, 1, 16, 16))

    def drawn(generator):
        return batch(data, np.arange(4), "cpu", augment=augment, generator=generator)

    one, same, other = drawn(seeded(1)), drawn(seeded(1)), drawn(seeded(2))
    assert torch.equal(one, same) and not torch.allclose(one, other)
    generator = seeded(1)
    first, second = drawn(generator), drawn(generator)
    assert torch.equal(first, one) and not torch.allclose(second, first)  # it moves on
    torch.manual_seed(0)
    state = torch.get_rng_state()
    batch(data, np.arange(4), "cpu", augment=augment, generator=seeded())
    assert torch.equal(torch.get_rng_state(), state)  # the global one is not touched


HALF = (torch.bfloat16, torch.float16)


@pytest.mark.parametrize("half", HALF)
@pytest.mark.parametrize("channels, side, augment", [(1, 33, "light"), (3, 224, "strong"), (1, 96, "none")])
def test_a_batch_has_the_same_bits_inside_a_callers_autocast(channels, side, augment, half):
    data, figures = torch.from_numpy(noise(5, channels, side, side)), {"mean": (0.2,) * 3, "std": (0.3,) * 3}
    plain = batch(data, [4, 0, 1], "cpu", augment=augment, generator=seeded(2), **figures)
    with torch.autocast("cpu", half):
        inside = batch(data, [4, 0, 1], "cpu", augment=augment, generator=seeded(2), **figures)
        assert torch.mm(torch.eye(2), torch.eye(2)).dtype == half  # it was on, and is on again
    assert inside.dtype == torch.float32 and torch.equal(inside, plain)


@pytest.mark.parametrize("half", [None, *HALF])
@pytest.mark.parametrize("side", [64, 160, 224])
def test_a_shift_lies_where_float64_puts_it(side, half, monkeypatch):
    """A ramp of one grey level a column shows its own place: column + shift, the border repeated. In bfloat16
    the sampling grid of 224 px is off by 0.4 of a pixel."""
    monkeypatch.setitem(AUGMENT, "moved", replace(NOTHING, shift=0.05))
    ramp = torch.arange(side, dtype=torch.uint8).expand(6, 1, side, side)
    with torch.autocast("cpu", half, enabled=half is not None):
        out = batch(ramp, range(6), "cpu", mean=(0,) * 3, std=(1,) * 3, augment="moved", generator=seeded(7))
    u = torch.rand(7, 6, generator=seeded(7)).double().numpy()[3] * 2 - 1
    expected = np.clip(np.arange(side) + 0.05 * side * u[:, None], 0, side - 1)
    assert np.abs(out[:, 0, side // 2].double().numpy() * 255 - expected).max() < 2e-3  # pixels


def test_amounts_of_nothing_are_the_identity():
    x = random_batch()
    torch.testing.assert_close(augmented(x.clone(), NOTHING, seeded()), x, atol=1e-5, rtol=0)


def test_flip_mirrors_exactly():
    x = random_batch(n=200)
    out = augmented(x.clone(), replace(NOTHING, flip=1.0), seeded())
    torch.testing.assert_close(out, x.flip(3), atol=1e-5, rtol=0)
    some = augmented(x.clone(), replace(NOTHING, flip=0.25), seeded())
    mirrored = ((some - x.flip(3)).abs().amax(dim=(1, 2, 3)) < 1e-4).sum().item()
    untouched = ((some - x).abs().amax(dim=(1, 2, 3)) < 1e-4).sum().item()
    assert mirrored + untouched == 200
    assert 27 <= mirrored <= 75  # 50, four standard deviations of 6.1


def test_flips_are_drawn_one_by_one_in_both_directions():
    """Of 400 images each of the four mirrorings has a quarter: 100, four standard deviations of 8.7."""
    x = random_batch(n=400)
    out = augmented(x.clone(), replace(NOTHING, flip=0.5, upside_down=0.5), seeded())
    ways = [x, x.flip(3), x.flip(2), x.flip(2, 3)]
    each = [((out - way).abs().amax(dim=(1, 2, 3)) < 1e-4).sum().item() for way in ways]
    assert sum(each) == 400 and all(65 <= n <= 135 for n in each)
    out = augmented(x.clone(), replace(NOTHING, upside_down=1.0), seeded())
    torch.testing.assert_close(out, x.flip(2), atol=1e-5, rtol=0)


def before_there_was_a_flip(images, how, generator):
    """What augmented() was: a flip from left to right with probability 0.5, of all that is drawn the first row."""
    u = torch.rand(7, len(images), generator=generator) * 2 - 1
    mirror = torch.where(u[0] < 0, -1.0, 1.0)
    size, angle = 1 + how.scale * u[1], torch.deg2rad(how.rotation * u[2])
    cos, sin = torch.cos(angle) / size, torch.sin(angle) / size
    rows = [torch.stack([mirror * cos, -sin, 2 * how.shift * u[3]], 1)]
    rows += [torch.stack([mirror * sin, cos, 2 * how.shift * u[4]], 1)]
    grid = torch.nn.functional.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    level = images.mean(dim=(1, 2, 3), keepdim=True)
    brightness, contrast = (1 + share * v for share, v in ((how.brightness, u[5]), (how.contrast, u[6])))
    return (((images - level) * contrast[:, None, None, None] + level) * brightness[:, None, None, None]).clamp(0, 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", ["light", "strong"])
def test_without_a_flip_a_batch_is_what_it_was_before_there_was_one(augment, channels):
    data, figures = torch.from_numpy(noise(9, channels, 33, 33)), {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    expected = before_there_was_a_flip(data / 255, AUGMENT[augment], seeded(4)).expand(9, 3, 33, 33)
    for flip in (None, "horizontal"):
        drawn = batch(data, range(9), "cpu", augment=augment, flip=flip, generator=seeded(4), **figures)
        assert torch.equal(drawn, expected)


@pytest.mark.parametrize("augment", AUGMENT)
def test_a_flip_changes_nothing_but_the_direction(augment):
    """The same draws otherwise: an image that flip both left upright has the bits of flip none, one that it turned
    over is its mirror image, as far as the rest of the augmentation is symmetric (without shift and rotation)."""
    data, figures = torch.from_numpy(noise(40, 1, 16, 16)), {"mean": (0.0,) * 3, "std": (1.0,) * 3}

    def drawn(flip):
        return batch(data, range(40), "cpu", augment=augment, flip=flip, generator=seeded(5), **figures)

    none, horizontal, both = (drawn(flip) for flip in ("none", "horizontal", "both"))
    if augment == "none":
        assert torch.equal(none, data.expand(40, 3, 16, 16) / 255) and torch.equal(none, drawn(None))
        ways = [none, none.flip(3), none.flip(2), none.flip(2, 3)]
        of_both = [((both - way).abs().amax(dim=(1, 2, 3)) < 1e-5).sum().item() for way in ways]
        of_one = [((horizontal - way).abs().amax(dim=(1, 2, 3)) < 1e-5).sum().item() for way in ways]
        assert sum(of_both) == sum(of_one) == 40 and all(of_both) and all(of_one[:2]) and not any(of_one[2:])
    else:
        same = (none == horizontal).all(dim=(1, 2, 3)).sum().item()
        assert 8 <= same <= 32 and torch.equal(horizontal, drawn(None))
        assert 2 <= (horizontal == both).all(dim=(1, 2, 3)).sum().item() <= 38


def test_shift_moves_by_pixels_and_repeats_the_border(extreme):
    x = random_batch()
    out = extreme(x, shift=0.25)  # of 8 pixels: 2, in both directions
    torch.testing.assert_close(out[:, :, :6, :6], x[:, :, 2:, 2:], atol=1e-4, rtol=0)
    torch.testing.assert_close(out[:, :, 6:, :6], x[:, :, 7:, 2:].expand(-1, -1, 2, -1), atol=1e-4, rtol=0)
    torch.testing.assert_close(out[:, :, :6, 6:], x[:, :, 2:, 7:].expand(-1, -1, -1, 2), atol=1e-4, rtol=0)


def test_rotation_by_a_right_angle(extreme):
    x = random_batch(side=9)
    out = extreme(x, rotation=90.0)
    torch.testing.assert_close(out, torch.rot90(x, 1, (2, 3)), atol=1e-4, rtol=0)  # anticlockwise


def test_rotation_moves_a_pixel_to_its_place(extreme):
    """A point 12 right of the centre of 33 x 33 pixels, turned by 30 degrees: 12 cos 30 = 10.39 right of it
    and 12 sin 30 = 6 above. Its centre of mass is measured."""
    x = torch.zeros(1, 1, 33, 33)
    x[0, 0, 16, 28] = 1
    out = extreme(x, rotation=30.0)[0, 0]
    rows, columns = torch.meshgrid(torch.arange(33.0), torch.arange(33.0), indexing="ij")
    row, column = ((out * at).sum() / out.sum() - 16 for at in (rows, columns))
    assert abs(column - 10.39) < 0.3 and abs(row + 6) < 0.3
    assert out.sum() > 0.5


def test_scale_enlarges_about_the_centre(extreme):
    """Scale 1 at its extreme is a factor of 2: pixel i shows the place (i - 3.5) / 2 + 3.5 of 8."""
    x = random_batch()
    out = extreme(x, scale=1.0)
    at = (torch.arange(8) - 3.5) / 2 + 3.5  # 1.75, 2.25, ...: between two pixels, by quarters
    low, weight = at.floor().long(), at - at.floor()
    rows = x[:, :, low] * (1 - weight)[:, None] + x[:, :, low + 1] * weight[:, None]
    both = rows[..., low] * (1 - weight) + rows[..., low + 1] * weight
    torch.testing.assert_close(out, both, atol=1e-4, rtol=0)


def test_brightness_and_contrast_by_hand(extreme):
    x = torch.tensor([0.1, 0.2, 0.3, 0.8]).reshape(1, 1, 2, 2)  # mean 0.35
    bright = extreme(x, brightness=0.5)
    torch.testing.assert_close(bright.flatten(), torch.tensor([0.15, 0.3, 0.45, 1.0]), atol=1e-4, rtol=0)
    contrast = extreme(x, contrast=0.5)  # 0.35 + 1.5 * (-0.25, -0.15, -0.05, 0.45), cut at 0 and 1
    torch.testing.assert_close(contrast.flatten(), torch.tensor([0.0, 0.125, 0.275, 1.0]), atol=1e-4, rtol=0)


def test_brightness_and_contrast_stay_in_their_ranges():
    flat = torch.full((500, 1, 4, 4), 0.5)
    levels = augmented(flat.clone(), replace(NOTHING, brightness=0.2), seeded())[:, 0, 0, 0] / 0.5
    assert 0.8 <= levels.min() < 0.82 and 1.18 < levels.max() <= 1.2 and abs(levels.mean() - 1) < 0.02
    steps = torch.tensor([0.4, 0.6]).expand(500, 1, 4, 2).contiguous()
    spans = augmented(steps.clone(), replace(NOTHING, contrast=0.2), seeded())
    spans = (spans[:, 0, 0, 1] - spans[:, 0, 0, 0]) / 0.2
    assert 0.799 <= spans.min() < 0.82 and 1.18 < spans.max() <= 1.201 and abs(spans.mean() - 1) < 0.02


def centres(out: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centre of mass of each picture, from the middle, in pixels: (columns, rows)."""
    side = out.shape[-1]
    at = torch.arange(side) - (side - 1) / 2
    mass = out[:, 0].sum(dim=(1, 2))
    return (out[:, 0] * at).sum(dim=(1, 2)) / mass, (out[:, 0] * at[:, None]).sum(dim=(1, 2)) / mass


def test_shift_stays_in_its_range_in_both_directions():
    x = torch.zeros(400, 1, 20, 20)
    x[:, :, 8:12, 8:12] = 1
    for moved in centres(augmented(x, replace(NOTHING, shift=0.1), seeded())):  # of 20 pixels: 2
        assert -2.001 <= moved.min() < -1.9 and 1.9 < moved.max() <= 2.001 and abs(moved.mean()) < 0.2
    columns, rows = centres(augmented(x, replace(NOTHING, shift=0.1), seeded()))
    assert abs(torch.corrcoef(torch.stack([columns, rows]))[0, 1]) < 0.2  # drawn apart


def test_rotation_stays_in_its_range_in_both_directions():
    x = torch.zeros(400, 1, 41, 41)
    x[:, :, 19:22, 34:37] = 1  # 15 right of the centre
    columns, rows = centres(augmented(x, replace(NOTHING, rotation=15.0), seeded()))
    torch.testing.assert_close(torch.hypot(columns, rows), torch.full((400,), 15.0), atol=0.2, rtol=0)
    degrees = torch.rad2deg(torch.atan2(rows, columns))
    assert -15.5 <= degrees.min() < -14 and 14 < degrees.max() <= 15.5 and abs(degrees.mean()) < 1.5


def test_scale_stays_in_its_range():
    x = torch.zeros(400, 1, 41, 41)
    x[:, :, 19:22, 30:33] = 1  # 11 right of the centre
    columns, rows = centres(augmented(x, replace(NOTHING, scale=0.15), seeded()))
    assert rows.abs().max() < 1e-3
    factors = columns / 11
    assert 0.845 <= factors.min() < 0.87 and 1.13 < factors.max() <= 1.155 and abs(factors.mean() - 1) < 0.02


def test_values_stay_between_0_and_1():
    x = (random_batch(n=64) > 0.5).float()  # the extremes alone
    out = augmented(x, AUGMENT["strong"], seeded())
    assert out.min() >= 0 and out.max() <= 1
    hot = augmented(x, replace(NOTHING, brightness=0.9, contrast=0.9), seeded())
    assert hot.min() == 0 and hot.max() == 1  # cut off, not wrapped


def test_augmented_batches_depend_on_nothing_but_their_own_images():
    """A neighbour's pixels never enter: the mean for contrast is each image's own."""
    x = random_batch(n=3)
    y = x.clone()
    y[1:] = 0.9 * y[1:].flip(0)
    one, two = (augmented(z.clone(), AUGMENT["strong"], seeded()) for z in (x, y))
    assert torch.equal(one[0], two[0]) and not torch.allclose(one[1], two[1])


def test_the_names_of_augmentations():
    assert set(AUGMENT) == {"none", "light", "strong"}
    strong, light = asdict(AUGMENT["strong"]), asdict(AUGMENT["light"])
    assert all(strong[name] >= light[name] for name in light)
    with pytest.raises(KeyError):
        batch(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), [0], "cpu", augment="heavy")
