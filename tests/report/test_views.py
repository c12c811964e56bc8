"""report/views.py: curves, calibration, thresholds, rates and pictures are what the runs left."""

import numpy as np
import pytest
from factory import all_right, experiment_of, toy, write_run
from PIL import Image

import metrics
from report import views
from report.experiment import LayerRates


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_curves_calibration_and_thresholds_are_what_the_predictions_say(tmp_path):
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 1])
    p = np.array([0.95, 0.85, 0.35, 0.05, 0.15, 0.65, 0.45, 0.75])
    write_run(tmp_path, "FT", np.stack([1 - p, p], 1), labels)
    experiment = experiment_of(tmp_path)
    roc = experiment.roc["FT"][0]
    assert roc.name == "malignant" and roc.area == pytest.approx(14 / 16)  # 16 pairs, 0.35 loses two
    at = {round(x, 2): y for x, y in zip(roc.grid, roc.mean, strict=True)}
    assert at[0.0] == 0.75 and at[0.24] == 0.75 and at[1.0] == 1.0  # of four positives three stand above every negative
    bins = {round(b.confidence, 2): (b.accuracy, b.count) for b in experiment.calibration["FT"].bins}
    # 0.35 for a positive and 0.65 for a negative are wrong
    assert bins[0.95] == (1.0, 2) and bins[0.65] == (0.0, 2)
    row = experiment.thresholds[0]
    assert row.rates == dict.fromkeys(metrics.RATES, 0.75)
    assert experiment.confusion["FT"] == [[3, 1], [1, 3]]
    hardest = experiment.hardest[0]
    assert hardest.image in ("i002.png", "i005.png") and hardest.mean_right == pytest.approx(0.35)
    assert hardest.predictions["FT"].right is False


def test_learning_curves_are_means_over_runs_with_their_range(tmp_path, rng):
    labels = toy(rng, 30)
    for seed in range(3):
        write_run(tmp_path, "FT", all_right(labels), labels, seed=seed)
    curve = experiment_of(tmp_path).curves["FT"]
    assert [(c.epoch, round(c.val_metric, 9), c.low, c.high, c.runs) for c in curve] == [
        (1, 0.5, 0.4, 0.6, 3),
        (2, 0.7, 0.6, 0.8, 3),
    ]


def test_rates_are_means_over_runs(tmp_path, rng):
    labels = toy(rng, 30)
    for seed in range(2):
        folder = write_run(tmp_path, "Auto-RGN", all_right(labels), labels, seed=seed)
        lines = [
            "epoch,layer,block,grad_norm,weight_norm,ratio,lr",
            f"1,conv1,stem,1,1,1,{0.1 + 0.2 * seed}",
            "1,fc,head,1,1,1,0.5",
        ]
        (folder / "ratios.csv").write_text("\n".join(lines) + "\n")
    assert experiment_of(tmp_path).layer_rates == LayerRates(
        strategy="Auto-RGN",
        layers=["conv1", "fc"],
        blocks=["stem", "head"],
        epochs=[1],
        rate=[[pytest.approx(0.2)], [0.5]],
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_thumbnail_is_the_picture_that_pillow_reads(tmp_path, rng, channels):
    pixels = rng.integers(0, 256, (channels, 7, 5), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(views.png(pixels))
    read = np.asarray(Image.open(tmp_path / "x.png"))
    assert np.array_equal(read if channels == 1 else read.transpose(2, 0, 1), pixels[0] if channels == 1 else pixels)
