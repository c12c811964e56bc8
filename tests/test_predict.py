"""Finished runs in use: scores are the run's, an export is the model, a Grad-CAM map is the formula's."""

import csv
import errno
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageOps
from torch import nn
from torch.nn import functional

import ftcompare
import gradcam
import models
import predict
import runs
import strategies
from datasets import DataError

ARCH = "squeezenet1_1"  # small, and without BatchNorm it gives differing scores after a few steps


def read(file):
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


class Tiny(nn.Module):
    """Mean colours through a linear layer: the scores can be worked by hand."""

    def __init__(self, outputs=1000):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.transform_input = False
        self.fc = nn.Linear(3, outputs)

    def forward(self, x):
        return self.fc(self.pool(self.conv(x)).flatten(1))


def as_is(model):
    """Tiny or Tiny-like with logits that are the mean channels."""
    with torch.no_grad():
        model.conv.weight.copy_(torch.eye(3)[:, :, None, None])
        model.conv.bias.zero_()
        model.fc.weight.copy_(torch.eye(3)[: model.fc.out_features])
        model.fc.bias.zero_()
    return model


def write_run(
    folder, model, *, classes, task="multiclass", thresholds=None, metrics=True, strategy="FT", **meta
):
    """A finished run of the model, by hand."""
    run = runs.RunFolder(folder)
    about = dict.fromkeys(("resize", "bit_depth", "transform_input"))
    about |= {
        "arch": "tiny",
        "classes": classes,
        "task": task,
        "mean": [0.0] * 3,
        "std": [1.0] * 3,
        "img_size": 8,
    }
    about |= meta
    run.save("best.pt", {"model": model.state_dict(), "meta": about})
    run.write_json("config.json", {"settings": {}, "strategy": strategy})
    if metrics:
        run.write_json("metrics.json", {"thresholds": thresholds})
    return run.path


@pytest.fixture
def tiny(monkeypatch):
    """torchvision's builder knows Tiny; a function that writes a run of it."""
    monkeypatch.setattr(models, "new_model", lambda arch: Tiny())
    return lambda folder, classes, **about: write_run(
        folder, as_is(Tiny(len(classes))), classes=classes, **about
    )


def flat(file, *colour):
    """A picture of one colour, RGB or grey."""
    file.parent.mkdir(parents=True, exist_ok=True)
    value = colour[0] if len(colour) == 1 else colour
    Image.new("L" if len(colour) == 1 else "RGB", (10, 6), value).save(file)
    return file


# ----------------------------------------------------------------------------------------- real, trained runs


def train(data, out, *arguments):
    common = (
        f"--arch {ARCH} --weights none --strategy ft --epochs 1 -b 8 --lr 0.0003 --device cpu -j 2".split()
    )
    made = ["--data", data, "--output-dir", out, *common, *arguments]
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
    return train(
        root / "data.csv", root / "runs", "--img-size", 32, "--threshold", "youden"
    ), root / "data.csv"


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


@pytest.mark.parametrize(
    "change", [{"resize": None}, {"bit_depth": None}, {"mean": [0.0] * 3}, {"std": [1.0] * 3}]
)
def test_the_preprocessing_is_the_one_in_best_pt(grey_run, tmp_path, change):
    """Each of its settings matters: another one in the file gives other scores."""
    run, data = grey_run
    checkpoint = runs.load_checkpoint(run / "best.pt")
    other = runs.RunFolder(tmp_path / "run")
    other.save("best.pt", checkpoint | {"meta": checkpoint["meta"] | change})
    for name in ("metrics.json", "config.json"):
        other.file(name).write_text((run / name).read_text())
    files = sorted((data / "dark").iterdir())[:4]
    a, b = (
        scores_in(read(predict.predict(files, r, out=tmp_path / "o.csv")), ["dark"])
        for r in (run, other.path)
    )
    assert np.abs(a - b).max() > 1e-4


def test_labels_are_judged_at_their_own_thresholds_and_columns_are_carried(multilabel_run, tmp_path):
    run, data = multilabel_run
    theirs = {row["image"]: row for row in read(run / "predictions.csv")}
    rows = [f"{image},{i:03d},NA" for i, image in enumerate(theirs)]
    (data.parent / "new.csv").write_text("\n".join(["file,patient,note", *rows]))
    ours = read(predict.predict([data.parent / "new.csv"], run, path_col="file", out=tmp_path / "o.csv"))
    names = json.loads((run / "config.json").read_text())["settings"]["classes"]
    assert list(ours[0]) == [
        "image",
        "patient",
        "note",
        *(f"score_{c}" for c in names),
        "predicted",
        "threshold",
    ]
    assert [(row["image"], row["patient"], row["note"]) for row in ours] == [
        (image, f"{i:03d}", "NA") for i, image in enumerate(theirs)
    ]
    np.testing.assert_allclose(scores_in(ours, names), scores_in(theirs.values(), names), atol=1e-5)
    thresholds = json.loads((run / "metrics.json").read_text())["thresholds"]
    assert {row["threshold"] for row in ours} == {"|".join(map(repr, thresholds))}
    for row, line in zip(ours, scores_in(ours, names)):
        assert row["predicted"] == "|".join(c for c, x, t in zip(names, line, thresholds) if x >= t)


def test_what_the_json_says_and_the_exported_program_give_the_scores_of_predict(grey_run, tmp_path):
    """By another path: numpy and Pillow alone, as somebody would write it who has only the two files."""
    run, data = grey_run
    about = predict.export(run, tmp_path / "deep" / "m.pt2")
    assert json.loads((tmp_path / "deep" / "m.json").read_text()) == about
    assert about["checkpoint_sha256"] == hashlib.sha256((run / "best.pt").read_bytes()).hexdigest()
    assert about["file_sha256"] == hashlib.sha256((tmp_path / "deep" / "m.pt2").read_bytes()).hexdigest()
    assert (about["arch"], about["strategy"], about["classes"]) == (ARCH, "FT", ["dark", "light"])
    assert (about["activation"], about["bit_depth"], about["resize"], about["img_size"]) == (
        "softmax",
        12,
        40,
        32,
    )
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
        batch.append([(pixels - m) / s for m, s in zip(about["mean"], about["std"])])
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


@pytest.mark.parametrize(
    "which", ["grey_run", "multilabel_run"]
)  # the centre of 40 px, and the whole at 32 px
def test_a_reader_of_the_json_alone_gets_the_scores_of_predict(request, tmp_path, which):
    """Large JPEGs above all: the run decoded them at a half, a quarter or an eighth, which is another picture."""
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
        batch = torch.tensor(
            np.array([as_the_json_says(f, about, draft) for f in files]), dtype=torch.float32
        )
        with torch.no_grad():
            logits = program(batch).double()
        return (logits.softmax(dim=1) if about["activation"] == "softmax" else logits.sigmoid()).numpy()

    np.testing.assert_allclose(scores(True), expected, atol=1e-5)
    apart = np.abs(scores(False) - expected).max(axis=1) > 1e-4
    assert apart.tolist() == [True, True, True, False, False, False]


# --------------------------------------------------------------------------------------------------- load_run


def test_load_run_gives_the_model_in_eval_with_its_weights_and_its_input_transform(tiny, tmp_path):
    model, meta = models.load_run(tiny(tmp_path / "r", ["a", "b"], transform_input=True, thresholds=[0.5]))
    assert not any(module.training for module in model.modules())
    assert model.transform_input is True and meta["classes"] == ["a", "b"]
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(model(x), x.mean(dim=(2, 3))[:, :2])
    assert (
        models.load_run(tiny(tmp_path / "s", ["a", "b"]))[0].transform_input is False
    )  # None: as it is built


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda r: r.rename(r.with_name("gone")), "no such run folder"),
        (lambda r: (r / "best.pt").unlink(), "no best.pt in it"),
        (lambda r: (r / "best.pt").write_bytes(b"PK no"), "not a checkpoint"),
        (lambda r: torch.save({"weight": torch.ones(1)}, r / "best.pt"), "holds no model and meta"),
        (lambda r: change_meta(r, lambda m: m.pop("std")), "its meta lacks std"),
        (
            lambda r: change_meta(r, lambda m: m.update(classes=list("abcd"))),
            "do not fit tiny with 4 classes.*fc",
        ),
        (lambda r: (r / "metrics.json").unlink(), "no metrics.json, so this run is not finished"),
        (lambda r: (r / "metrics.json").write_text('{"thresholds": null}'), "thresholds None, not 1 numbers"),
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


def test_an_architecture_that_torchvision_has_not_is_named(tmp_path):
    run = write_run(tmp_path / "r", Tiny(3), classes=list("abc"), arch="resnet19")
    with pytest.raises(runs.RunError, match="cannot build its 'resnet19'"):
        models.load_run(run)


# ------------------------------------------------------------------------------------------- predict, by hand


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
    meta = {"classes": ["a", "b"], "task": "multiclass"}
    assert models.decide(np.array([[0.7, 0.3], [0.71, 0.29]]), meta, [0.3]) == ["b", "a"]  # at it: positive
    several = {"classes": list("xyz"), "task": "multilabel"}
    scores = np.array([[0.2, 0.9, 0.4], [0.1, 0.1, 0.1]])
    assert models.decide(scores, several, [0.2, 0.95, 0.3]) == ["x|z", ""]


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
    """A mask, thumbnails and a loop are left out, a folder that is a link is followed, a link to nowhere refused."""
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
    assert [row["image"] for row in rows] == [
        f"{scans}/{name}" for name in ("p/s2.png", "q/s3.png", "s1.png")
    ]
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
        ("path\nx.png\n", "1 of 1 images are not below"),
        ("path\n../pictures/x.png\n", "1 paths leave the data folder"),
        ("file\nx.png\n", "no column path; its columns are file; name it with --path-col"),
        ("path,score_b\npictures/x.png,1\n", "score_b is one that --predict writes"),
        ("path\n", "no rows below the header"),
    ]:
        table.write_text(text)
        with pytest.raises((runs.RunError, DataError), match=message):
            predict.predict([table], run)
    table.write_text("path\npictures/x.png\n")
    with pytest.raises(runs.RunError, match="the CSV to predict"):
        predict.predict([table], run, out=table)
    with pytest.raises(runs.RunError, match="one CSV alone"):
        predict.predict([table, tmp_path / "pictures"], run)
    assert table.read_text() == "path\npictures/x.png\n"


def test_the_run_s_own_scores_are_not_written_over(tiny, tmp_path):
    run = tiny(tmp_path / "r", ["a", "b", "c"])
    with pytest.raises(runs.RunError, match="holds a run's validation and test scores"):
        predict.predict([flat(tmp_path / "x.png", 1)], run, out=run / "predictions.csv")


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
        with pytest.raises(
            runs.RunError, match=r"2 of 4 images cannot be read: .*1.png \(.*3.png \(.*--skip-bad"
        ):
            predict.predict([root], run, batch_size=batch_size)
    assert not (run / "predicted.csv").exists()
    capsys.readouterr()
    rows = read(predict.predict([root], run, skip_bad=True, batch_size=3))
    assert [(Path(row["image"]).name, row["predicted"]) for row in rows] == [("0.png", "a"), ("2.png", "a")]
    np.testing.assert_allclose(
        scores_in(rows, "abc")[1], softmax(1, 0, 0), atol=1e-6
    )  # its own, not a neighbour's
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
    """--skip-bad is for damaged ones: a CSV without a patient whose file was locked just then is no result."""
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
        with pytest.raises(
            runs.RunError, match=rf"2 of 4 images cannot .*1.png \({reason}\).*3.png"
        ) as caught:
            predict.predict([root], run, skip_bad=True, batch_size=batch_size)
        assert str(caught.value).endswith("; mend that first")
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


# ----------------------------------------------------------------------------------------------------- export


@pytest.mark.parametrize("arch", ["mobilenet_v3_small", "resnet18"])
def test_an_export_is_the_model_without_dropout_at_any_batch_size(tmp_path, arch):
    torch.manual_seed(0)
    model = models.new_model(arch)
    strategies.replace_head(model, 3)
    run = write_run(tmp_path / "r", model, classes=list("abc"), arch=arch, img_size=40, task="multilabel",
                    thresholds=[0.1, 0.5, 0.9], strategy="LP-FT")  # fmt: skip
    about = predict.export(run, tmp_path / "m.pt2")
    assert (about["activation"], about["thresholds"], about["strategy"]) == (
        "sigmoid",
        [0.1, 0.5, 0.9],
        "LP-FT",
    )
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
    with pytest.raises(runs.RunError, match=r"has to end in .pt2"):
        predict.export(run, tmp_path / "m.json")


# --------------------------------------------------------------------------------------------------- Grad-CAM


def two_channels(*, weight):
    """A0 = red, A1 = green, then the mean over the picture and a linear layer."""
    model = nn.Sequential(
        nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:2, :, None, None])
        model[3].weight.copy_(torch.tensor(weight))
        model[3].bias.zero_()
    return model


def test_a_map_worked_by_hand():
    """Behind a mean and a linear layer Grad-CAM is relu(sum_k w_ck A_k), scaled to a maximum of 1."""
    model = two_channels(weight=[[2.0, -1.0], [-3.0, -1.0]])
    x = torch.zeros(2, 3, 2, 2)
    x[0, 0] = torch.tensor([[1.0, 2.0], [3.0, 4.0]])  # 2 red - green: 2, 4, 6, -2
    x[0, 1] = torch.tensor([[0.0, 0.0], [0.0, 10.0]])
    x[1, 0] = torch.tensor([[-1.0, 0.0], [0.0, 0.0]])  # the largest logit is the second: 3 at one place
    maps, layer = gradcam.gradcam(model, x)
    assert layer == "0"
    expected = torch.tensor([[[1 / 3, 2 / 3], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(maps, expected)
    maps, _ = gradcam.gradcam(model, x, torch.tensor([1, 0]))  # for image 0: -3 red - green, nowhere positive
    torch.testing.assert_close(maps, torch.zeros(2, 2, 2))


def test_a_map_is_brought_to_the_size_of_the_picture():
    model = nn.Sequential(
        nn.Conv2d(3, 1, 2, stride=2, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)
    )
    with torch.no_grad():
        model[0].weight.fill_(1 / 12)
        model[3].weight.copy_(torch.tensor([[1.0], [-1.0]]))
    x = torch.zeros(1, 3, 4, 4)
    x[:, :, 2:, :2] = 1  # A: 0 0 / 1 0
    maps, _ = gradcam.gradcam(model, x, torch.tensor([0]))
    edge = torch.tensor([1.0, 0.75, 0.25, 0.0])  # bilinear between the centres of two positions
    torch.testing.assert_close(maps[0], edge.flip(0)[:, None] * edge[None, :])


class InPlace(nn.Module):
    """As DenseNet ends: a norm, then a rectifier in place and a mean that are no modules."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6))
        self.classifier = nn.Linear(6, 3)

    def forward(self, x):
        return self.classifier(functional.relu(self.features(x), inplace=True).mean(dim=(2, 3)))


class Rectified(nn.Module):
    """The rectifier in place is a module; then poolings as in VGG, the second of which makes it larger."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(inplace=True)
        self.pools = nn.Sequential(nn.MaxPool2d(8), nn.AdaptiveAvgPool2d(7), nn.Flatten())
        self.classifier = nn.Linear(6 * 49, 3)

    def forward(self, x):
        return self.classifier(self.pools(self.relu(self.conv(x))))


class ChannelsLast(nn.Module):
    """As Swin, but without its Permute: the norm's (N, H, W, C) is averaged at once."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.classifier = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.LayerNorm(6),
            nn.Linear(6, 3),
        )

    def forward(self, x):
        return self.classifier(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


def scaled(maps):
    maps = maps.detach().relu()
    return maps / maps.amax(dim=(1, 2), keepdim=True)


@pytest.mark.parametrize("kind, layer", [(InPlace, "features"), (ChannelsLast, "norm")])
def test_rectifiers_in_place_and_channels_last(kind, layer):
    """Both end in mean and linear layer: the map is the class's weights on the last features."""
    torch.manual_seed(0)
    model, x = kind().eval(), torch.randn(4, 3, 8, 8)
    c = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        last = (
            model.features(x).relu()
            if kind is InPlace
            else model.norm(model.conv(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        )
        expected = scaled(torch.einsum("nkhw,nk->nhw", last, model.classifier.weight[c]))
    maps, name = gradcam.gradcam(model, x, c)
    assert name == layer
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)
    assert 0.05 < maps.mean() < 0.95


def test_vgg_s_end_is_the_last_convolution_and_neither_of_the_poolings():
    torch.manual_seed(1)
    model, x = Rectified(), torch.randn(3, 3, 8, 8)
    c = torch.tensor([0, 1, 2])
    maps, name = gradcam.gradcam(model, x, c)
    assert name == "conv"
    # by hand: all 49 places are copies of the maximum, so dy/dA_k is their summed weight there, else 0
    last = model.conv(x).relu()
    weights = model.classifier.weight[c].view(3, 6, 49).sum(dim=2) * (last.amax(dim=(2, 3)) > 0)
    torch.testing.assert_close(
        maps, scaled(torch.einsum("nkhw,nk->nhw", last, weights)), atol=1e-5, rtol=1e-5
    )


def resnet():
    return torchvision.models.resnet18(num_classes=3), lambda m, seen: seen["layer4"], 64, "layer4"


def densenet():
    model = torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=3)
    return model, lambda m, seen: seen["features.norm5"].relu(), 64, "features.norm5"


def swin():
    parts = {
        "patch_size": [4, 4],
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [1, 1],
        "window_size": [2, 2],
    }
    model = torchvision.models.SwinTransformer(**parts, num_classes=3)
    return model, lambda m, seen: seen["norm"].permute(0, 3, 1, 2), 32, "norm"


@pytest.mark.parametrize("build", [resnet, densenet, swin])
@pytest.mark.parametrize("frozen", [False, True])
def test_torchvision_s_models_that_end_in_mean_and_linear_layer(build, frozen):
    """Grad-CAM must be CAM there, also where no parameter wants a gradient, and the model stays as it was."""
    torch.manual_seed(0)
    model, last, size, layer = build()
    head = strategies.find_head(model)[1]
    nn.init.normal_(head.weight)  # of both signs, so that the largest logit has evidence in its map
    model.requires_grad_(not frozen).train()
    next(model.children()).eval()  # modes differ: each has to come back
    modes = [m.training for m in model.modules()]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x = torch.randn(2, 3, size, size)
    maps, name = gradcam.gradcam(model, x)
    assert name == layer
    assert [m.training for m in model.modules()] == modes and not x.requires_grad
    assert all(p.grad is None and p.requires_grad is not frozen for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())

    seen = {}
    model.eval()
    hook = model.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.update({layer: o.clone()}))
    with torch.no_grad():
        chosen = model(x).argmax(dim=1)
    hook.remove()
    cam = torch.einsum("nkhw,nk->nhw", last(model, seen), head.weight[chosen]).relu()
    cam = functional.interpolate(cam[:, None], (size, size), mode="bilinear")[:, 0]
    torch.testing.assert_close(maps, scaled(cam), atol=1e-4, rtol=1e-4)


def test_vit_s_patches_become_a_grid_without_the_class_token():
    torch.manual_seed(0)
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=3).eval()
    nn.init.normal_(model.heads.head.weight)
    x, tokens = torch.randn(2, 3, 32, 32), model.encoder.layers[-1].ln_1
    maps, name = gradcam.gradcam(model, x, torch.tensor([2, 0]))
    assert name == "encoder.layers.encoder_layer_1.ln_1"
    # by differences instead of autograd: y with a little added to channel k of all 16 patches
    kept = {}
    hook = tokens.register_forward_hook(lambda m, i, o: kept.update(A=o))
    with torch.no_grad():
        model(x)
    hook.remove()
    slope = torch.zeros(2, 16)
    with torch.no_grad():
        for k in range(16):
            ys = []
            for step in (0.02, -0.02):
                change = torch.zeros_like(kept["A"])
                change[:, 1:, k] = step
                hook = tokens.register_forward_hook(lambda m, i, o, d=change: o + d)
                ys.append(model(x)[torch.arange(2), torch.tensor([2, 0])])
                hook.remove()
            slope[:, k] = (ys[0] - ys[1]) / 0.04
    cam = torch.einsum("ntk,nk->nt", kept["A"][:, 1:], slope).view(2, 1, 4, 4).relu()
    expected = functional.interpolate(cam, (32, 32), mode="bilinear")[:, 0]
    assert expected.amax(dim=(1, 2)).min() > 0
    torch.testing.assert_close(maps, scaled(expected), atol=0.02, rtol=0)


def test_squeeze_and_excitation_s_poolings_are_not_the_end():
    model = torchvision.models.mobilenet_v3_small(num_classes=3)
    assert gradcam.gradcam(model, torch.randn(1, 3, 64, 64))[1] == "features.12"
    assert (
        gradcam.gradcam(torchvision.models.squeezenet1_1(num_classes=3), torch.randn(1, 3, 64, 64))[1]
        == "features.12"
    )


def test_no_spatial_map_says_why_and_which_size_has_one():
    model = torchvision.models.resnet18(num_classes=3)
    with pytest.raises(
        gradcam.NoSpatialMap, match="map of layer4 has one position at 32 x 32 px; at 64 px it has 2 x 2"
    ):
        gradcam.gradcam(model, torch.randn(2, 3, 32, 32))
    assert model.training and not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(gradcam.NoSpatialMap, match="Sequential has no module whose output is a map"):
        gradcam.gradcam(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.randn(2, 3, 2, 2))


def test_a_trained_network_s_map_lies_on_the_blob_that_makes_the_class():
    torch.manual_seed(0)
    convs = [nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(True), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(True)]
    model = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)

    def draw(n):  # a blob that is red or green, and one that is blue and means nothing
        x, y = 0.1 * torch.randn(n, 3, 16, 16), torch.randint(2, (n,))
        at, other = torch.randint(1, 5, (n, 2)), torch.randint(9, 12, (n, 2))
        for i in range(n):
            x[i, y[i], at[i, 0] : at[i, 0] + 4, at[i, 1] : at[i, 1] + 4] += 1
            x[i, 2, other[i, 0] : other[i, 0] + 4, other[i, 1] : other[i, 1] + 4] += 1
        return x, y, at

    for _ in range(80):
        x, y, _ = draw(32)
        functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    x, y, at = draw(40)
    maps, _ = gradcam.gradcam(model, x, y)
    assert (model(x).argmax(dim=1) == y).float().mean() > 0.9
    peak = torch.stack([maps.flatten(1).argmax(dim=1) // 16, maps.flatten(1).argmax(dim=1) % 16], dim=1)
    assert ((peak >= at - 1) & (peak <= at + 4)).all(dim=1).float().mean() > 0.9
    inside = torch.stack([m[r - 1 : r + 5, c - 1 : c + 5].sum() / m.sum() for m, (r, c) in zip(maps, at)])
    assert inside.min() > 2 * 36 / 256  # evenly spread, the 36 of 256 places at the blob would have 0.14


# ------------------------------------------------------------------------------------------------------ panel


def test_the_panel_has_a_row_an_image_and_a_column_a_run(tiny, tmp_path):
    one = tiny(tmp_path / "one", ["red", "green", "blue"])
    swapped = as_is(Tiny(3))
    swapped.fc.weight.data = swapped.fc.weight.data[[1, 0, 2]]  # calls red green and green red
    two = write_run(tmp_path / "two", swapped, classes=["red", "green", "blue"])
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    pixels[0, 0], pixels[1, 2] = 255, 255
    long = "图像 — a name that goes on and on " * 9 + "\nwith a second line"
    out = tmp_path / "new" / "p.png"
    assert (
        gradcam.gradcam_panel({"FT": one, "Auto-RGN " * 30: two}, pixels, ["red", "blue"], ["a", long], out)
        == []
    )
    panel = np.asarray(Image.open(out)).astype(int)
    cell, line, gap = gradcam.CELL, gradcam.LINE, gradcam.GAP
    top, row = 2 * line + 3 * gap, cell + 2 * line + gap
    assert panel.shape == (top + 2 * row + line + gap, gap + 3 * (cell + gap), 3)
    for j in range(4):  # text stays within its column
        assert (panel[: top + 2 * row - gap, j * (cell + gap) : j * (cell + gap) + gap] == 255).all()
    assert (panel[top : top + cell, gap : gap + cell] == [255, 0, 0]).all()  # the picture itself

    def ink(i, j):  # where the mark below a cell is, whatever its colour
        x, y = gap + j * (cell + gap), top + i * row + cell
        return (panel[y : y + 16, x : x + 15].min(axis=2) < 128).tolist()

    assert ink(0, 1) == ink(1, 1) == ink(1, 2) != ink(0, 2)  # three right, one wrong
    assert np.any(ink(0, 1)) and np.any(ink(0, 2))


def test_heat_is_laid_over_by_its_strength():
    picture = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    assert (np.asarray(gradcam.overlaid(picture, torch.zeros(8, 8))) == 100).all()
    hot = np.asarray(gradcam.overlaid(picture, torch.ones(8, 8)))
    expected = [0.35 * 100 + 0.65 * c for c in (252, 255, 164)]
    assert np.abs(hot - np.array(expected)).max() <= 0.51
    np.testing.assert_allclose(
        gradcam.heat_colours(np.array([0, 0.125, 0.5])), [(0, 0, 4), (43.5, 8, 57), (188, 55, 84)]
    )


def test_a_run_without_a_map_and_a_label_at_its_threshold(tmp_path):
    torch.manual_seed(0)
    model = models.new_model("shufflenet_v2_x0_5")
    strategies.replace_head(model, 2)
    about = {"arch": "shufflenet_v2_x0_5", "img_size": 32, "task": "multilabel", "thresholds": [0.0, 1.0]}
    run = write_run(tmp_path / "r", model, classes=["a", "b"], **about)
    layer, cells = gradcam.explained(run, torch.zeros(2, 1, 32, 32, dtype=torch.uint8), ["a", "a|b"], "cpu")
    assert "conv5 has one position" in layer
    assert [(c["map"], c["predicted"], c["right"]) for c in cells] == [(None, "a", True), (None, "a", False)]
    out, pixels = tmp_path / "p.png", torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    (note,) = gradcam.gradcam_panel({"LP": run}, pixels, ["a"], ["x"], out)
    assert note == f"LP: {layer}" and "at 64 px it has 2 x 2" in note and out.is_file()
    with pytest.raises(runs.RunError, match=r"was trained at 32 px, the images have \(16, 16\)"):
        gradcam.gradcam_panel({"LP": run}, pixels[..., :16, :16], ["a"], ["x"], out)
    with pytest.raises(runs.RunError, match="1 runs, 1 images, 2 labels, 1 names"):
        gradcam.gradcam_panel({"LP": run}, pixels, ["a", "b"], ["x"], out)


def test_text_is_cut_to_its_room():
    assert gradcam.shortened("short", len, 10) == "short"
    assert gradcam.shortened("exactly ten", len, 10) == "exactly t…"
    assert gradcam.shortened("Läsion\n 图", len, 20) == "Lasion ?"
