"""methods.py: what the runs recorded is said, and nothing else.
python -m pytest tests/report/test_methods.py"""

from dataclasses import replace

import pytest
from awkward import lost_runs, one_seed, several
from factory import NAMES, make_analysis, make_experiment, make_row

import images
import strategies
from report import methods


def test_the_methods_text_says_what_was_recorded_and_nothing_else():
    experiment = make_experiment()
    text = methods.paragraph(experiment)
    assert len(text.split("\n\n")) == 5
    for said in (
        "423 images of 141 patients for training, 73 images of 24 patients for validation and 125 images",
        "No patient was in more than one split",
        "3 random seeds (0, 1, 2)",
        "resnet18 from torchvision, initialised with torchvision's ImageNet weights",
        "resized to 224 x 224 pixels",
        f"{len(NAMES)} strategies were compared: FT (FT as its source has it; learning rate 0.0001)",
        "L2-SP (L2-SP as its source has it; learning rate 0.0001; alpha 0.0001, beta 0.01)",
        "These hyperparameters were not tuned within the comparison.",
        "AdamW (weight decay 0.01 where no SP penalty held)",
        "warm-up over the first 5 % of the steps",
        "every strategy had 30 epochs in all",
        "a batch held 32 images",
        "the test part was scored once",
        f"Holm's method over {len(experiment.pairs)} comparisons",
        "(2,000 resamples;",
        "McNemar's test on what each strategy called right, DeLong's test for AUROC and the corrected",
        "PyTorch 2.15.0",
        "[author: ",
    ):
        assert said in text, said
    assert "Wilcoxon" not in text and "official" not in text and "5 folds" not in text


def test_what_is_not_recorded_is_not_claimed():
    nothing = {"settings": {}, "environment": {}, "splits": [], "seeds": [], "mean": None}
    text = methods.paragraph(make_experiment(full=False, **nothing))
    for never in ("AdamW", "224", "epochs in all", "PyTorch", "McNemar", "DeLong", "seed (", "normalised"):
        assert never not in text, never
    assert "[author: the pretrained weights]" in text and "[author: source of the data]" in text


def test_a_strategy_of_an_earlier_version_has_no_sentence():
    assert methods.strategy_text(make_row("FT", sentence="")) == "learning rate 0.0001"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": {"lp": 1, "ft": 5}}, "stages: lp from epoch 1, ft from epoch 5"),
        ({"stages": {"ft": 1}}, "here in its last stage alone, all weights trained from the first epoch"),
        ({"early": {"lp": 2}}, "scored by a checkpoint from before the last stage: 2 of 3 runs in stage lp"),
        ({"hyperparameters": {"lp_lr": 0.003}}, "learning rate 0.0001, 0.003 in its first part"),
        ({"lr": [1e-4, 3e-4]}, "learning rate 0.0001 and 0.0003"),
    ],
)
def test_what_is_said_of_a_strategy_in_stages(changes, said):
    assert said in methods.strategy_text(make_row("LP-FT", **changes)).split("; ")


def test_stages_of_a_strategy_without_any_are_not_said():
    assert "stage" not in methods.strategy_text(make_row("FT", stages={"ft": 1}))


def test_tuning_and_leaks_are_said():
    experiment = make_experiment()
    first, *others = (replace(row, trials=10) for row in experiment.rows)
    splits = [replace(experiment.splits[0], groups_in_two_splits=2, identical_across_splits=1)]
    rows = [replace(first, edge=["lr in fold 0"]), *others]
    experiment = replace(experiment, rows=rows, splits=splits)
    text = methods.paragraph(experiment)
    for said in (
        "10 trials in each fold, the default first and then others of the strategy's grid, on a further",
        "lay at an end of those tried for FT.",
        "2 patients were in more than one split",
        "1 set of byte-identical images spanned two splits.",
    ):
        assert said in text, said
    limits = methods.limitations(make_analysis([experiment]))
    assert "Groups or byte-identical images in two splits (demo, resnet18)." in limits
    assert not any("not tuned" in limit for limit in limits)


def test_folds_and_an_interrupted_sweep():
    experiment = make_experiment(folds=[0, 1])
    planned = replace(experiment.planned, seeds=[0, 1, 2, 3], folds=[0, 1, 2])
    text = methods.paragraph(replace(experiment, planned=planned))
    assert "by patient, into 3 folds, of which 1 was run, with" in text and "for test in each." in text
    assert "3 random seeds (0, 1, 2) on 2 folds, with runs missing" in text
    assert "; of 4 seeds planned, 3 were run; of 3 folds planned, 2 were run; a seed set" in text
    assert "the latter by Welch's formula" in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"resize": 256}, "resized so that their shorter side was 256 pixels, and the central 224 x 224 pixels"),
        ({"bit_depth": 12}, "read at a depth of 12 bits"),
        ({"weights": "/home/me/own.pt"}, "pretrained weights (own.pt)"),
        ({"weights": "none"}, "a seed set all initial weights"),
        ({"patience": 5}, "with an early stop after 5 epochs without a gain"),
        ({"schedule_epochs": 50}, "a cosine over the length of 50 epochs after a linear warm-up"),
        ({"grad_accum": 4}, "32 images with gradients accumulated over 4 batches"),
        ({"class_weights": "balanced"}, "the loss was cross-entropy weighted by class"),
        ({"clip_grad": 1.0}, "gradients were clipped at a norm of 1"),
        ({"amp": "bf16"}, "training ran in mixed precision (bf16)"),
        ({"opt": "sgd"}, "The optimizer was SGD with momentum 0.9"),
    ],
)
def test_settings_are_said(settings, said):
    experiment = make_experiment(strategies=("FT",))
    assert said in methods.paragraph(replace(experiment, settings=experiment.settings | settings))


def test_thresholds_of_two_classes_are_told_from_calls():
    text = methods.selection_text(make_experiment(classes=("a", "b"), strategies=("FT",)))
    assert "were chosen on the validation part (youden). Accuracy" in text
    text = methods.selection_text(make_experiment(task="multilabel", strategies=("FT",), threshold_rule="0.5"))
    assert text.endswith("The threshold for sensitivity and specificity was 0.5.")


def test_augmentation_is_described_as_it_is():
    assert set(methods.AUGMENTATION) == set(images.AUGMENT) and set(methods.FLIP) == set(images.FLIP)
    experiment = make_experiment()
    for kind, of in images.AUGMENT.items():
        settings = experiment.settings | {"augment": kind}
        text = methods.augmentation_text(replace(experiment, settings=settings))
        assert all(f"{share * 100:g} %" in text for share in (of.shift, of.brightness) if share)
        assert (f"{of.rotation:g} degrees" in text) == (of.rotation > 0) and of.brightness == of.contrast
        assert ("flipped horizontally with probability 0.5" in text) == (of.flip == 0.5)
        assert (text == "No augmentation was used.") == (of == images.Augmentation())
        for flip, chances in images.FLIP.items():
            said = methods.augmentation_text(replace(experiment, settings=settings | {"flip": flip}))
            assert ("flipped" in said) == (chances["flip"] > 0)
            assert ("vertically" in said) == (chances["upside_down"] > 0)
            assert ("brightness" in said) == (of.brightness > 0)
    mixed = replace(experiment, differ=["flip: both, none"])
    assert methods.augmentation_text(mixed) == ""


# ---- citations, limitations ----


def test_citations_are_of_what_was_used():
    experiment = make_experiment(full=False, strategies=("FT", "LP-FT"))
    rows = [replace(experiment.rows[0], citation=""), replace(experiment.rows[1], citation="Kumar A. 2022.")]
    found = methods.citations(make_analysis([replace(experiment, rows=rows, citation="The data. 2020.")]))
    assert found[1:3] == ["Kumar A. 2022.", "The data. 2020."] and len(found) == len(set(found))
    joined = "\n".join(found)
    for used in ("Davila", "Efron", "Field CA", "Holm S", "Paszke", "Tejani"):
        assert used in joined, used
    for unused in ("DeLong", "Sun X", "McNemar", "Nadeau", "Demšar", "Wilcoxon F"):
        assert unused not in joined, unused
    joined = "\n".join(methods.citations(several()))
    for used in ("DeLong", "Sun X", "McNemar", "Nadeau", "Demšar", "Wilcoxon F"):
        assert used in joined, used


def test_a_reference_that_several_strategies_share_stands_once():
    experiment = make_experiment(strategies=("L1-SP", "L2-SP"))
    rows = [replace(row, citation="Li X. 2018.") for row in experiment.rows]
    assert methods.citations(make_analysis([replace(experiment, rows=rows)])).count("Li X. 2018.") == 1


def test_limitations_come_from_the_runs():
    one = " ".join(methods.limitations(one_seed()))
    assert "One run a strategy (demo, resnet18)" in one and "demo, resnet18: 40 patients" in one
    by_image = " ".join(methods.limitations(make_analysis([make_experiment(group_kind="image")])))
    assert "Split by image (demo, resnet18)" in by_image and "One run a strategy" not in by_image
    lost = methods.limitations(lost_runs())
    assert "Not every run has a result (demo, resnet18: LP-FT and Auto-RGN)." in lost
    assert any(limit.startswith("Holm's adjustment") for limit in methods.limitations(several()))
    assert not any(limit.startswith("Holm's adjustment") for limit in lost)


def test_what_hyperparameters_chose_is_said_in_the_words_of_their_own_entry():
    proximal = strategies.Hyperparameters(sp_mode="proximal", bn="eval", stage_shares=(0.3, 0.7))
    assert strategies.about("l2sp", proximal)["settings"] == [
        "BatchNorm in evaluation mode throughout",
        "shares 0.3, 0.7 of the epochs for its stages",
        "the penalty as a proximal step after the optimizer's",
    ]
    authors = strategies.Hyperparameters(rgn_norm="all", rgn_source="probe", rgn_every=7, rgn_reset=True)
    said = strategies.about("autorgn", authors)["settings"]
    assert (
        "ratios relative to the largest of all, the classifier's included" in said
        and "ratios new every 7 steps" in said
    )
    default = "; ".join(strategies.about("autorgn")["settings"])
    assert "the classifier at the full rate, ratios relative to the largest of the backbone" in default
    (row,) = make_experiment(strategies=("L2-SP",)).rows
    assert "a proximal step" in methods.strategy_text(
        replace(row, settings=strategies.about("l2sp", proximal)["settings"])
    )
    assert strategies.about("ft", authors)["settings"] == []
