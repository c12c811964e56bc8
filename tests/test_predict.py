"""Finished runs in use: scores are the run's, an export is the model."""

import csv
import errno
import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from toys import Tiny, as_is, read, write_run

import ftcompare
import gradcam
import models
import predict
import runs
import strategies
from datasets import DataError

ARCH = "squeezenet1_1"  # small, and without BatchNorm it gives differing scores after a few steps


def flat(file, *colour):
    """A picture of one colour, RGB or grey."""
    file.parent.mkdir(parents=True, exist_ok=True)
    value = colour[0] if len(colour) == 1 else colour
    Image.new("L" if len(colour) == 1 else "RGB", (10, 6), value).save(file)
    return file


# ---- real, trained runs ----


def train(data, out, *arguments):
    common = f"--arch {ARCH} --weights none --strategy ft --epochs 1 -b 8 --lr 0.0003 --device cpu -j 2"
    made = ["--data", data, "--output-dir", out, *common.split(), *arguments]
    assert ftcompare.main([str(a) for a in made]) == 0
    return next(Path(out).rglob("metrics.json")).parent


@pytest.fixture(scope="module")
def grey_run(tmp_path_factory):
    """(run, folder of its pictures): two classes, 12 bits in 16-bit files, not square, the centre cut out."""
    root = tmp_path_factory.mktemp("grey")
    rng = np.random.default_rng(0)
    for label, level in (("dark", 900), ("light", 2400)):
        (root / "data" / label).mkdir(parents=True)
        for i in range(16):
            pixels = np.clip(rng.normal(level, 900, (44, 60)), 0, 4095).astype(np.uint16)
            Image.fromarray(pixels).save(root / "data" / label / f"{label}{i}.png")
    options = ("--img-size", 32, "--resize", 40, "--bit-depth", 12, "--threshold", "youden")
    return train(root / "data", root / "runs", *options), root / "data"


@pytest.fixture(scope="module")
def multilabel_run(tmp_path_factory):
    """(run, CSV): two labels, colour and grey pictures mixed."""
    root = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(1)
    lines = ["path,label"]
    for i in range(30):
        red, blue = i % 2, (i // 2) % 2
        pixels = rng.normal(70, 30, (30, 36, 3)) + 120 * np.array([red, 0, blue])
        picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
        (picture if i % 5 else picture.convert("L")).save(root / f"{i}.png")
        lines.append(f"{i}.png,{'|'.join(['red'] * red + ['blue'] * blue)}")
    (root / "data.csv").write_text("\n".join(lines))
    run = train(root / "data.csv", root / "runs", "--img-size", 32, "--threshold", "youden")
    return run, root / "data.csv"


def scores_in(rows, classes):
    return np.array([[float(row[f"score_{c}"]) for c in classes] for row in rows])


def test_a_run_s_own_test_images_get_the_scores_that_they_had_in_it(grey_run, tmp_path):
    run, data = grey_run
    theirs = read(run / "predictions.csv")
    files = [data / row["image"] for row in theirs]
    ours = read(predict.predict(files, run, out=tmp_path / "o.csv", batch_size=3))
    assert [row["image"] for row in ours] == [str(file) for file in files]
    expected, got = scores_in(theirs, ["dark", "light"]), scores_in(ours, ["dark", "light"])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert expected.std(axis=0).min() > 1e-3  # scores that differ from image to image
    threshold = json.loads((run / "metrics.json").read_text())["thresholds"][0]
    assert {row["threshold"] for row in ours} == {repr(threshold)}
    clear = abs(got[:, 1] - threshold) > 1e-5  # youden's threshold is one of the validation scores
    named = np.array([row["predicted"] for row in ours])
    assert (named[clear] == np.where(got[:, 1] > threshold, "light", "dark")[clear]).all() and clear.sum() > 5


@pytest.mark.parametrize("change", [{"resize": None}, {"bit_depth": None}, {"mean": [0.0] * 3}, {"std": [1.0] * 3}])
def test_the_preprocessing_is_the_one_in_best_pt(grey_run, tmp_path, change):
    """Each of its settings matters: another one in the file gives other scores."""
    run, data = grey_run
    checkpoint = runs.load_checkpoint(run / "best.pt")
    other = runs.RunFolder(tmp_path / "run")
    other.save("best.pt", checkpoint | {"meta": checkpoint["meta"] | change})
    for name in ("metrics.json", "config.json"):
        other.file(name).write_text((run / name).read_text())
    files = sorted((data / "dark").iterdir())[:4]
    written = [predict.predict(files, r, out=tmp_path / f"{r.name}.csv") for r in (run, other.path)]
    a, b = (scores_in(read(file), ["dark"]) for file in written)
    assert np.abs(a - b).max() > 1e-4


def test_labels_are_judged_at_their_own_thresholds_and_columns_are_carried(multilabel_run, tmp_path):
    run, data = multilabel_run
    theirs = {row["image"]: row for row in read(run / "predictions.csv")}
    rows = [f"{image},{i:03d},NA" for i, image in enumerate(theirs)]
    (data.parent / "new.csv").write_text("\n".join(["file,patient,note", *rows]))
    ours = read(predict.predict([data.parent / "new.csv"], run, path_col="file", out=tmp_path / "o.csv"))
    names = json.loads((run / "config.json").read_text())["settings"]["classes"]
    scores = [f"score_{c}" for c in names]
    assert list(ours[0]) == ["image", "patient", "note", *scores, "predicted", "threshold"]
    carried = [(image, f"{i:03d}", "NA") for i, image in enumerate(theirs)]
    assert [(row["image"], row["patient"], row["note"]) for row in ours] == carried
    np.testing.assert_allclose(scores_in(ours, names), scores_in(theirs.values(), names), atol=1e-5)
    thresholds = json.loads((run / "metrics.json").read_text())["thresholds"]
    assert {row["threshold"] for row in ours} == {"|".join(map(repr, thresholds))}
    for row, line in zip(ours, scores_in(ours, names), strict=True):
        above = [c for c, x, t in zip(names, line, thresholds, strict=True) if x >= t]
        assert row["predicted"] == "|".join(above)


def test_what_the_json_says_and_the_exported_program_give_the_scores_of_predict(grey_run, tmp_path):
    """By another path: numpy and Pillow alone, as somebody would write it who has only the two files."""
    run, data = grey_run
    about = predict.export(run, tmp_path / "deep" / "m.pt2")
    assert json.loads((tmp_path / "deep" / "m.json").read_text()) == about
    assert about["checkpoint_sha256"] == hashlib.sha256((run / "best.pt").read_bytes()).hexdigest()
    assert about["file_sha256"] == hashlib.sha256((tmp_path / "deep" / "m.pt2").read_bytes()).hexdigest()
    assert (about["arch"], about["strategy"], about["classes"]) == (ARCH, "FT", ["dark", "light"])
    expected = {"activation": "softmax", "bit_depth": 12, "resize": 40, "img_size": 32}
    assert about | expected == about
    assert about["max_score_difference"] <= 1e-5
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["m.json", "m.pt2"]

    program = torch.export.load(tmp_path / "deep" / "m.pt2").module()
    files = sorted((data / "light").iterdir())[:5]
    batch = []
    for file in files:
        grey = np.asarray(Image.open(file)).astype(float) * 255 / (2 ** about["bit_depth"] - 1)
        picture = Image.fromarray((grey + 0.5).astype(np.uint8))
        picture = picture.resize((round(60 * 40 / 44), 40), Image.Resampling.BILINEAR)
        left, top = (picture.width - 32) // 2, 4
        pixels = np.asarray(picture.crop((left, top, left + 32, top + 32))) / 255
        batch.append([(pixels - m) / s for m, s in zip(about["mean"], about["std"], strict=True)])
    with torch.no_grad():
        scores = program(torch.tensor(np.array(batch), dtype=torch.float32)).double().softmax(dim=1)
    expected = scores_in(read(predict.predict(files, run, out=tmp_path / "o.csv")), ["dark", "light"])
    np.testing.assert_allclose(scores.numpy(), expected, atol=1e-5)


def as_the_json_says(file, about, draft=True):
    """(3, S, S) float64 of a picture, by the steps of the JSON's "decode" and with its numbers alone."""
    image = Image.open(file)
    if draft and image.format == "JPEG":
        side = about["jpeg_draft"]
        part = max(s for s in (8, 4, 2, 1) if s <= max(1, min(image.width // side, image.height // side)))
        expected = (-(-image.width // part), -(-image.height // part))
        image.draft(None, (side, side))
        assert image.size == expected
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGBA":
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    image = image.convert("L" if image.mode == "L" else "RGB")
    size, resize = about["img_size"], about["resize"]
    if resize is None:
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    else:
        scale = resize / min(image.size)
        width, height = (max(resize, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - size) // 2, (height - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = np.asarray(image).astype(float) / 255
    pixels = np.stack([pixels] * 3) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    mean, std = (np.array(about[name])[:, None, None] for name in ("mean", "std"))
    return (pixels - mean) / std


def photo(shape, seed):
    """uint8 noise with an edge: what a JPEG decoder's scaling and a resize do otherwise."""
    pixels = np.random.default_rng(seed).normal(110, 60, shape)
    pixels[: shape[0] // 3] += 70
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("which", ["grey_run", "multilabel_run"])  # the centre of 40 px, and the whole at 32 px
def test_a_reader_of_the_json_alone_gets_the_scores_of_predict(request, tmp_path, which):
    """Large JPEGs above all: the run decoded them at a half, a quarter or an eighth: another picture."""
    run, _ = request.getfixturevalue(which)
    about = predict.export(run, tmp_path / "m.pt2")
    assert f"image.draft(None, ({about['jpeg_draft']}, {about['jpeg_draft']}))" in about["decode"][0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    made = {
        "eighth.jpg": (Image.fromarray(photo((720, 910, 3), 1)), {}),
        "quarter.jpg": (Image.fromarray(photo((430, 333), 2)), {}),
        "half.jpeg": (Image.fromarray(photo((163, 240, 3), 3)), {"exif": exif}),
        "whole.jpg": (Image.fromarray(photo((90, 77, 3), 4)), {}),
        "large.png": (Image.fromarray(photo((430, 333, 3), 5)), {}),
        "clear.png": (Image.fromarray(photo((200, 333, 4), 6), "RGBA"), {}),
    }
    for name, (image, options) in made.items():
        image.save(tmp_path / name, **options)
    files = [tmp_path / name for name in made]
    expected = scores_in(read(predict.predict(files, run, out=tmp_path / "o.csv")), about["classes"])
    program = torch.export.load(tmp_path / "m.pt2").module()

    def scores(draft):
        batch = np.array([as_the_json_says(file, about, draft) for file in files])
        with torch.no_grad():
            logits = program(torch.tensor(batch, dtype=torch.float32)).double()
        return (logits.softmax(dim=1) if about["activation"] == "softmax" else logits.sigmoid()).numpy()

    np.testing.assert_allclose(scores(True), expected, atol=1e-5)
    apart = np.abs(scores(False) - expected).max(axis=1) > 1e-4
    assert apart.tolist() == [True, True, True, False, False, False]


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda r: r.rename(r.with_name("gone")), "no such run folder"),
        (lambda r: (r / "best.pt").unlink(), "no best.pt in it"),
        (lambda r: (r / "best.pt").write_bytes(b"PK no"), "best.pt: is text, not tensors"),
        (lambda r: (r / "best.pt").write_bytes(b"\x80\x02no"), "not a checkpoint"),
        (lambda r: torch.save({"weight": torch.ones(1)}, r / "best.pt"), "holds no model and meta"),
        (lambda r: change_meta(r, lambda m: m.pop("std")), "its meta lacks std"),
        (lambda r: change_meta(r, lambda m: m.update(classes=list("abcd"))), "do not fit tiny with 4 classes.*fc"),
        (lambda r: (r / "metrics.json").unlink(), "no metrics.json, so this run is not finished"),
        (
            lambda r: (r / "metrics.json").write_text('{"thresholds": null}'),
            "metrics.json has no usable thresholds .None",
        ),
    ],
)
def test_runs_that_cannot_be_used_are_refused_in_a_line(tiny, tmp_path, spoil, message):
    run = tiny(tmp_path / "r", ["a", "b"], thresholds=[0.5])
    picture = flat(tmp_path / "p.png", 9)
    spoil(run)
    with pytest.raises(runs.RunError, match=message) as caught:
        predict.predict([picture], run)
    assert "\n" not in str(caught.value) and str(run) in str(caught.value)


def change_meta(run, change):
    checkpoint = runs.load_checkpoint(run / "best.pt")
    change(checkpoint["meta"])
    torch.save(checkpoint, run / "best.pt")


# ---- predict, by hand ----


def softmax(*logits):
    powers = [math.exp(x) for x in logits]
    return [p / sum(powers) for p in powers]


def test_scores_worked_by_hand(tiny, tmp_path):
    """Logits are the mean of r, g, b after (x/255 - 0.5)/0.25; grey is the same three times."""
    run = tiny(tmp_path / "r", ["a", "b", "c"], mean=[0.5] * 3, std=[0.25] * 3)
    pictures = [flat(tmp_path / "p.png", 51, 102, 255), flat(tmp_path / "q.png", 204)]
    rows = read(predict.predict(pictures, run))
    assert list(rows[0]) == ["image", "score_a", "score_b", "score_c", "predicted"]
    np.testing.assert_allclose(scores_in(rows, "abc"), [softmax(-1.2, -0.4, 2.0), [1 / 3] * 3], atol=1e-6)
    assert rows[0]["predicted"] == "c"
    assert (run / "predicted.csv").is_file()


def test_two_classes_are_told_by_the_run_s_threshold_and_not_by_half(tiny, tmp_path):
    files = [flat(tmp_path / f"{i}.png", 255, green, 0) for i, green in enumerate((50, 100, 150))]
    second = [softmax(1, green / 255)[1] for green in (50, 100, 150)]  # all below 0.5
    run = tiny(tmp_path / "r", ["a", "b"], thresholds=[(second[0] + second[1]) / 2])
    assert [row["predicted"] for row in read(predict.predict(files, run))] == ["a", "b", "b"]
    two = np.array([[0.7, 0.3], [0.71, 0.29]])
    assert models.decide(two, ["a", "b"], "multiclass", [0.3]) == ["b", "a"]  # at it: positive
    scores = np.array([[0.2, 0.9, 0.4], [0.1, 0.1, 0.1]])
    assert models.decide(scores, list("xyz"), "multilabel", [0.2, 0.95, 0.3]) == ["x|z", ""]


def test_folders_are_walked_in_natural_order_without_hidden_files_and_others(tiny, tmp_path):
    run, root = tiny(tmp_path / "r", ["a", "b", "c"]), tmp_path / "new"
    for name in ("s10.png", "s9.png", "s2/x.png", "s1.png", ".hidden.png", "__MACOSX/y.png", ".git/z.png"):
        flat(root / name, 1)
    (root / "notes.md").write_text("no picture")
    extra = flat(tmp_path / "a.png", 1)
    rows = read(predict.predict([root, extra, root / "s9.png"], run))
    expected = [root / "s1.png", root / "s2/x.png", root / "s9.png", root / "s10.png", extra]
    assert [row["image"] for row in rows] == [str(p) for p in expected]


def test_what_lies_beside_the_pictures_of_a_folder_is_not_scored(tiny, tmp_path, capsys):
    """A mask, thumbnails and a loop are left out, a folder that is a link is followed, a link to nowhere is
    refused."""
    run = tiny(tmp_path / "r", ["a", "b"], thresholds=[0.5])
    scans = tmp_path / "scans"
    for name in ("s1.png", "s1_Mask.png", "p/s2.png", "@eaDir/s1.png/THUMB.png"):
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        flat(scans / name, 100)
    (tmp_path / "disk").mkdir()
    flat(tmp_path / "disk/s3.png", 50)
    (scans / "q").symlink_to("../disk")
    (scans / "p/loop").symlink_to("..")
    rows = read(predict.predict([scans], run, out=tmp_path / "o.csv"))
    assert [row["image"] for row in rows] == [f"{scans}/{name}" for name in ("p/s2.png", "q/s3.png", "s1.png")]
    err = capsys.readouterr().err
    assert f"{scans}: 1 masks beside their images, left out (--keep-masks keeps them): s1_Mask.png\n" in err
    assert f"{scans}: 1 folders are links, followed: q\n" in err and "not followed: p/loop\n" in err
    rows = read(predict.predict([scans], run, out=tmp_path / "o.csv", keep_masks=True))
    assert sorted(Path(row["image"]).name for row in rows) == ["s1.png", "s1_Mask.png", "s2.png", "s3.png"]
    assert "masks" not in capsys.readouterr().err
    (scans / "p/gone").symlink_to("nowhere")
    with pytest.raises(DataError, match="p/gone .a link that leads nowhere"):
        predict.predict([scans], run, out=tmp_path / "o.csv")


def test_a_table_has_its_paths_below_its_own_folder_or_data_dir(tiny, tmp_path, capsys):
    run = tiny(tmp_path / "r", ["a", "b", "c"])
    flat(tmp_path / "pictures" / "x.png", 0, 0, 255)
    table = tmp_path / "t.csv"
    table.write_text("path;who\nx.png;me\n")
    assert predict.predict([table], run, data_dir=tmp_path / "pictures", out="-") is None
    header, line = capsys.readouterr().out.splitlines()
    assert header == "image,who,score_a,score_b,score_c,predicted"
    assert line.startswith("x.png,me,") and line.endswith(",c") and not (run / "predicted.csv").exists()
    for text, message in [
        ("path\ny.png\n", "1 of 1 images are not below"),
        ("path\n../pictures/x.png\n", "1 paths leave the data folder"),
        ("file\nx.png\n", "no column path; its columns are file; name it with --path-col"),
        ("path,score_b\npictures/x.png,1\n", "score_b is one that --predict writes"),
        ("path\n", "no rows below the header"),
    ]:
        table.write_text(text)
        with pytest.raises((runs.RunError, DataError), match=message):
            predict.predict([table], run)
    for path in ("x", r"pictures\x.png"):  # found by name, said on stderr; the CSV's own spelling stays
        table.write_text(f"path\n{path}\n")
        assert predict.predict([table], run, out="-") is None
        out, err = capsys.readouterr()
        assert out.splitlines()[1].startswith(f"{path},") and f"found by name: {path} = pictures/x.png" in err
    table.write_text("path\npictures/x.png\n")
    with pytest.raises(runs.RunError, match="the CSV to predict"):
        predict.predict([table], run, out=table)
    with pytest.raises(runs.RunError, match="one CSV alone"):
        predict.predict([table, tmp_path / "pictures"], run)
    assert table.read_text() == "path\npictures/x.png\n"


def test_what_a_run_keeps_and_what_is_predicted_are_not_written_over(tiny, tmp_path):
    run, picture = tiny(tmp_path / "r", ["a", "b", "c"]), flat(tmp_path / "x.png", 1)
    link = tmp_path / "link.csv"
    link.symlink_to(picture)
    for name in runs.FILES:
        with pytest.raises(runs.RunError, match="is one of a run's own files; write elsewhere"):
            predict.predict([picture], run, out=run / name)
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "last.pt").write_bytes(b"x")
    with pytest.raises(runs.RunError, match="is one of a run's own files"):
        predict.predict([picture], run, out=tmp_path / "unfinished" / "last.pt")
    for out in (picture, link):
        with pytest.raises(runs.RunError, match="is one of the images to predict"):
            predict.predict([picture], run, out=out)
    assert predict.predict([picture], run) == run / "predicted.csv"


def test_a_name_that_is_no_utf_8_is_written_with_its_bytes_spelt_out(tiny, tmp_path):
    run, root = tiny(tmp_path / "r", ["a", "b", "c"]), tmp_path / "new"
    flat(root / "x.png", 1)
    try:
        os.rename(os.fsencode(root / "x.png"), os.fsencode(root) + b"/\xff\xe4.png")
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    (row,) = read(predict.predict([root], run))
    assert row["image"] == str(root) + r"/\udcff\udce4.png"


def test_what_a_spreadsheet_would_run_is_written_as_text(tiny, tmp_path):
    run = tiny(tmp_path / "r", ["=a", "-1", "@c"])
    flat(tmp_path / "=x.png", 255, 0, 0)
    header, cells = ["path", "+note", "plain"], ["=x.png", '=HYPERLINK("http://x","y")', "-0.5"]
    with open(tmp_path / "t.csv", "w", newline="") as out:
        csv.writer(out).writerows([header, cells])
    out = predict.predict([tmp_path / "t.csv"], run)
    with open(out, newline="", encoding="utf-8") as lines:
        columns, values = csv.reader(lines)
    assert columns[:3] == ["image", "'+note", "plain"] and values[:3] == ["'=x.png", f"'{cells[1]}", "-0.5"]
    assert columns[3:7] == ["score_=a", "score_-1", "score_@c", "predicted"] and values[6] == "'=a"


def test_missing_and_unreadable_images_are_named_all_at_once(tiny, tmp_path, capsys):
    run, root = tiny(tmp_path / "r", ["a", "b", "c"]), tmp_path / "new"
    with pytest.raises(runs.RunError, match=r"2 of 3 paths do not exist: .*g1.png, .*g2.png$"):
        predict.predict([flat(root / "0.png", 1), root / "g1.png", root / "g2.png"], run)
    with pytest.raises(runs.RunError, match="no images in this folder"):
        (tmp_path / "empty").mkdir()
        predict.predict([tmp_path / "empty"], run)
    for i in (1, 3):
        (root / f"{i}.png").write_bytes(b"no picture")
    flat(root / "2.png", 255, 0, 0)
    for batch_size in (1, 8):
        with pytest.raises(runs.RunError, match=r"2 of 4 images cannot be read: .*1.png \(.*3.png \(.*--skip-bad"):
            predict.predict([root], run, batch_size=batch_size)
    assert not (run / "predicted.csv").exists()
    capsys.readouterr()
    rows = read(predict.predict([root], run, skip_bad=True, batch_size=3))
    assert [(Path(row["image"]).name, row["predicted"]) for row in rows] == [("0.png", "a"), ("2.png", "a")]
    np.testing.assert_allclose(scores_in(rows, "abc")[1], softmax(1, 0, 0), atol=1e-6)  # its own, not a neighbour's
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "1.png" in said[0] and "3.png" in said[1]
    with pytest.raises(runs.RunError, match="1 of 1 images cannot be read"):
        predict.predict([root / "1.png"], run, skip_bad=True)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (PermissionError(errno.EACCES, "Permission denied"), "Permission denied"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (MemoryError(), "out of memory"),
    ],
)
def test_an_image_that_the_system_refuses_is_never_left_out(tiny, tmp_path, monkeypatch, error, reason):
    """--skip-bad is for damaged ones: a CSV without a patient whose file was locked just then is no
    result."""
    run, root = tiny(tmp_path / "r", ["a", "b", "c"]), tmp_path / "new"
    for i in range(3):
        flat(root / f"{i}.png", 255, 0, 0)
    (root / "3.png").write_bytes(b"no picture")
    real = gradcam.pictures.decode_image

    def refusing(source, *arguments):
        if Path(source).name == "1.png":
            raise error
        return real(source, *arguments)

    monkeypatch.setattr(gradcam.pictures, "decode_image", refusing)
    for batch_size in (1, 8):
        with pytest.raises(runs.RunError, match=rf"2 of 4 images cannot .*1.png \({reason}\).*3.png") as caught:
            predict.predict([root], run, skip_bad=True, batch_size=batch_size)
        assert str(caught.value).endswith("; make them readable first")
    assert not (run / "predicted.csv").exists()
    monkeypatch.setattr(gradcam.pictures, "decode_image", real)
    assert len(read(predict.predict([root], run, skip_bad=True))) == 3


def test_at_most_three_batches_are_in_memory(tiny, tmp_path, monkeypatch):
    run = tiny(tmp_path / "r", ["a", "b", "c"])
    files = [flat(tmp_path / f"{i}.png", i) for i in range(30)]
    decoded, waiting, told = [], [], []
    decode, score = gradcam.pictures.decode_image, models.scores_of
    monkeypatch.setattr(gradcam.pictures, "decode_image", lambda *a: (decoded.append(1), decode(*a))[1])

    def counting(model, batch, task):
        waiting.append(len(decoded) - 2 * len(waiting))
        return score(model, batch, task)

    monkeypatch.setattr(predict, "scores_of", counting)
    predict.predict(files, run, batch_size=2, progress=lambda done, total: told.append((done, total)))
    assert max(waiting) <= 6 and len(decoded) == 30
    assert told == [(n, 30) for n in range(2, 31, 2)]


# ---- export ----


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "resnet18"])
def test_an_export_is_the_model_without_dropout_at_any_batch_size(tmp_path, arch):
    torch.manual_seed(0)
    model = models.new_model(arch)
    strategies.replace_head(model, 3)
    several = {"classes": list("abc"), "task": "multilabel", "thresholds": [0.1, 0.5, 0.9]}
    run = write_run(tmp_path / "r", model, arch=arch, img_size=40, strategy="LP-FT", **several)
    about = predict.export(run, tmp_path / "m.pt2")
    expected = {"activation": "sigmoid", "thresholds": [0.1, 0.5, 0.9], "strategy": "LP-FT"}
    assert about | expected == about
    program, x = torch.export.load(tmp_path / "m.pt2").module(), torch.randn(5, 3, 40, 40)
    with torch.no_grad():
        torch.testing.assert_close(program(x), model.eval()(x), atol=1e-5, rtol=1e-5)


def test_an_export_that_gives_other_scores_is_not_written(tiny, tmp_path, monkeypatch):
    run, file = tiny(tmp_path / "r", ["a", "b", "c"]), tmp_path / "out" / "m.pt2"
    predict.export(run, file)
    before = file.read_bytes(), file.with_suffix(".json").read_bytes()

    class Other:
        def module(self):
            model = as_is(Tiny(3))
            model.fc.bias.data[0] = 1e-3  # scores differ by some 2e-4
            return model

    monkeypatch.setattr(torch.export, "load", lambda path: Other())
    with pytest.raises(runs.RunError, match=r"differs in its scores \(by up to 0.0002"):
        predict.export(run, file)
    with pytest.raises(runs.RunError, match="differs in its scores"):
        predict.export(run, file.with_name("new.pt2"))
    assert (file.read_bytes(), file.with_suffix(".json").read_bytes()) == before
    assert sorted(p.name for p in file.parent.iterdir()) == ["m.json", "m.pt2"]  # no new.pt2, no temporary
    with pytest.raises(runs.RunError, match="must end in .pt2"):
        predict.export(run, tmp_path / "m.json")
