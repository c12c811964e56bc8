"""The command line's settings: what is parsed, and what is refused in one line."""

import re
import shlex

import pytest
import torch
from conftest import ROOT
from toys import ARCH, SMALL, Toy, settings_of

import metrics
import settings
import strategies
import train

BAD = [
    (["--report", "runs", "--predict", "new"], "--report stands alone"),
    (["--report", "nowhere"], "nowhere is no folder"),
    (["--report", "runs", "--metric", "auroc", "--alpha", "1"], "--report stands alone"),
    (["--report", "runs", "--metric", "auroc", "--alpha", "1"], "leave out --alpha, --metric"),
    (
        ["--data", "demo-tiny", "--strategy", "ft", "lp", "--alpha", "1"],
        "--alpha: none of the chosen strategies (FT, LP)",
    ),
    (["--data", "demo-tiny", "--strategy", "l1sp", "--rgn-every", "1"], "--rgn-every: none of the chosen strategies"),
    (["--run", "runs/x"], "--run and --out go with --predict or --export"),
    (["--data", "demo-tiny", "--export", "m.pt2", "--run", "r"], "--export use a finished run (--run), not --data"),
    (["--export", "m.pt2", "--run", "nowhere"], "nowhere: no such run folder"),
    (["--data", "demo-tiny", "--strategy", "lpfft"], "unknown strategy 'lpfft'; choose from ft, lp, glf"),
    (
        ["--data", "demo-tiny", "--arch", "resnet5000"],
        "unknown --arch resnet5000; did you mean resnet50? torchvision has resnet",
    ),
    (["--data", "demo-huge"], "neither a file, a folder nor a known dataset"),
    (["--data", "no/such/place"], "neither a file, a folder nor a known dataset; the datasets are"),
    (["--data", "demo-tiny", "--epochs", "0"], "'0' is not a whole number of 1 or more"),
    (["--data", "demo-tiny", "--lr", "nan"], "'nan' is not a number of 0 or more"),
    (["--data", "demo-tiny", "-b", "1"], "BatchNorm cannot normalise a single image"),
    (["--data", "demo-tiny", "--threshold", "high"], "--threshold high"),
    (["--data", "demo-tiny", "--opt", "lion"], "'lion' is none of adamw, adam, sgd"),
    (["--data", "demo-tiny", "--weights", "nowhere.pth"], "nowhere.pth: no such file"),
    (["--data", "demo-tiny", "--metric", "acuracy"], "unknown --metric acuracy"),
    (["--data", "demo-tiny", "--resize", "16"], "--resize 16 is smaller than --img-size 32"),
    (["--data", "demo-tiny", "--val-fraction", "0.9"], "leave no images for training"),
    (["--data", "demo-tiny", "--splits-file", "nowhere.csv"], "--splits-file nowhere.csv"),
    (
        ["--data", "demo-tiny", "--strategy", "lpft", "--stage-shares", "1", "2", "3"],
        "2 stages, but stage_shares has 3",
    ),
    (["--data", "demo-tiny", "--data-dirr", "x"], "unknown flag --data-dirr; did you mean --data-dir?"),
    ([], "say what to train on"),
    (["--data", "cholect50", "--arch", "resnet50", "--strategy", "autorgn"], "cholect50"),
]


# What people type who know other tools: the flag or value that they meant.
MEANT = [
    (["--model", "resnet18"], "unknown flag --model; did you mean --arch?"),
    (["--backbone=resnet18"], "unknown flag --backbone; did you mean --arch?"),
    (["--method", "ft"], "unknown flag --method; did you mean --strategy?"),
    (["--learning-rate", "1e-3"], "unknown flag --learning-rate; did you mean --lr?"),
    (["--learning_rate=1e-3"], "unknown flag --learning_rate; did you mean --lr?"),
    (["--lr-rate", "1e-3"], "unknown flag --lr-rate; did you mean --lr?"),
    (["-lr", "1e-3"], "unknown flag -lr; did you mean --lr?"),
    (["--batchsize", "8"], "unknown flag --batchsize; did you mean --batch-size?"),
    (["--batch_size", "8"], "unknown flag --batch_size; did you mean --batch-size?"),
    (["--optimizer", "sgd"], "unknown flag --optimizer; did you mean --opt?"),
    (["--num-epochs", "3"], "unknown flag --num-epochs; did you mean --epochs?"),
    (["--k-folds", "3"], "unknown flag --k-folds; did you mean --folds?"),
    (["--gpu", "0"], "unknown flag --gpu; did you mean --device?"),
    (["--pretrained"], "unknown flag --pretrained; did you mean --weights?"),
    (["--image-size", "32"], "unknown flag --image-size; did you mean --img-size?"),
    (["--num-classes", "4"], "unknown flag --num-classes: the classes are read from the data"),
    (["--resume"], "unknown flag --resume: the same command again goes on where it was"),
    (["--qwertz"], "unknown flag --qwertz; --help-all lists every flag"),
    (["--model", "x", "--method", "y"], "did you mean --arch?; unknown flag --method; did you mean --strategy?"),
    (["--strategy", "linear-probe"], "unknown strategy 'linear-probe'"),
    (["--strategy", "linear-probe"], "did you mean lp?"),
    (["--strategy", "Linear_Probing"], "did you mean lp?"),
    (["--strategy", "full"], "did you mean ft?"),
    (["--strategy", "ft", "finetune"], "did you mean ft?"),
    (["--strategy", "fine-tuning"], "did you mean ft?"),
    (["--strategy", "lpfft"], "did you mean lpft?"),
    (["--strategy", "l3-sp"], "did you mean l"),
    (["--arch", "ResNet-18"], "unknown --arch ResNet-18; did you mean resnet18? torchvision has resnet"),
    (["--arch", "efficientnet-b0"], "did you mean efficientnet_b0?"),
    (["--opt", "AdamW"], "'AdamW' is none of adamw, adam, sgd; did you mean adamw?"),
    (["--metric", "auc"], "unknown --metric auc; did you mean auroc?"),
    (["--metric", "f1-macro"], "unknown --metric f1-macro; did you mean macro_f1?"),
    (["--weights", "pretrained"], "--weights pretrained: no such file; did you mean imagenet?"),
    (["--weights", "random"], "did you mean none?"),
    (["--device", "gpu"], "unknown --device gpu; did you mean cuda?"),
    (["--amp", "--epochs", "3"], "--amp needs a value, as in --amp auto|off|bf16|fp16: precision"),
    (["--quip"], "unknown flag --quip; --help-all lists every flag"),
    (["-b"], "--batch-size needs a value, as in --batch-size, -b N: images in a batch"),
    (["--epochs"], "--epochs needs a value, as in --epochs N: epochs of a whole run (default: 30; demo: 10)"),
    (["--arch", "--epochs", "3"], "--arch needs a value, as in --arch NAME ...: torchvision models"),
]


@pytest.mark.parametrize(("arguments", "message"), MEANT, ids=[" ".join(a) for a, _ in MEANT])
def test_what_was_meant_is_said(arguments, message, tmp_path, run):
    code, _, err = run("--data", "demo-tiny", *arguments, "--output-dir", tmp_path / "runs")
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("config.json"))


def test_a_path_without_its_flag_is_asked_for_data(run):
    assert run("my_images/")[2] == "ftcompare: 'my_images/' belongs to no flag; did you mean --data my_images/?\n"


def test_l2_sp_in_any_spelling_is_the_strategy():
    for name in ("l2-sp", "L2-SP", "l2_sp", "l2sp"):
        assert settings_of("--data", "demo-tiny", "--strategy", name).strategy == ("l2sp",)


def test_other_names_lead_to_flags_that_there_are_and_hide_none():
    flags, bare = settings.helps(), {settings.bare(name) for name in settings.helps()}
    others = [word for words in settings.OTHER_NAMES.values() for word in words.split()]
    assert {*settings.OTHER_NAMES} - {"--help-all"} <= {*flags}
    assert len(others) == len({*others}) and not {*others, *settings.NO_FLAG} & bare
    assert not {*others} & {*settings.NO_FLAG} and all(word == settings.bare(word) for word in others)
    known = {"strategy": strategies.STRATEGIES, "metric": metrics.METRICS}
    for flag, names in settings.OTHER_VALUES.items():
        assert {*names} <= {*known.get(flag, names)}, flag
        assert not {settings.bare(name) for name in known.get(flag, ())} & {
            word for words in names.values() for word in words.split()
        }


def help_of(run, monkeypatch, *flags, columns="80"):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit) as ended:
        run(*flags)
    assert ended.value.code == 0


def test_help_is_one_screen_and_help_all_has_every_flag_once(run, monkeypatch, capsys):
    pages = {}
    for flag in ("-h", "--help", "--help-all"):
        help_of(run, monkeypatch, flag)
        pages[flag] = capsys.readouterr().out
    assert pages["-h"] == pages["--help"]
    lines = pages["--help"].splitlines()
    assert len(lines) <= 45 and max(map(len, lines)) <= 80
    shown, every = (
        re.findall(r"^  (?:-h, )?(--[\w-]+)", pages[flag], re.MULTILINE) for flag in ("--help", "--help-all")
    )
    assert sorted(every) == sorted([*settings.helps(), "--help", "--help-all", "--version"]) and {*shown} < {*every}
    assert {"--data", "--strategy", "--group-regex", "--dry-run", "--report", "--help-all"} <= {*shown}
    assert not any(name.startswith(("--rgn", "--sp", "--beta")) for name in shown)


@pytest.mark.parametrize(("columns", "widest"), [("70", 70), ("80", 80), ("300", 110)])
def test_help_fits_the_terminal(columns, widest, run, monkeypatch, capsys):
    help_of(run, monkeypatch, "--help-all", columns=columns)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= widest


def test_help_says_each_default_once_and_it_is_the_field_s():
    for f, _ in settings.flags_in(*settings.GROUPS.values()):
        text = settings.help_text(f)
        if f.name != "protocol":
            assert text.count("(default") <= 1 and text.count("default") <= 1, text
        if f.default not in (None, False, ()) and "(default)" not in text:
            value = settings.plain(f.default)
            assert re.search(rf"\(default: {re.escape(value)}(; demo: .*)?\)$", text), text
    helps = settings.helps()
    assert helps["--epochs"].endswith("(default: 30; demo: 10)") and helps["--patience"].endswith("(default: 0)")
    assert helps["--clip-grad"].endswith("(default: 0)") and helps["--lr"].endswith("(default: each strategy's own)")


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[f"{i} {' '.join(a)}" for i, (a, _) in enumerate(BAD)])
def test_bad_input_gets_one_line_and_exit_code_2(arguments, message, tmp_path, run, monkeypatch):
    monkeypatch.delenv("FTCOMPARE_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    small = ["--arch", ARCH] * ("--arch" not in arguments) + ["--weights", "none"] * ("--weights" not in arguments)
    more = [] if "--report" in arguments else [*small * bool(arguments), "--output-dir", tmp_path / "runs"]
    code, _, err = run(*arguments, *more)
    assert code == 2 and message in err, err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert not list(tmp_path.glob("runs/*/*/*/*/config.json"))


def test_davila_protocol_sets_its_values_below_what_is_said():
    """The follow-up code: Adam without weight decay, every rate 1e-3, a cosine over 100 epochs without
    warmup."""
    by_hand = {"opt": "adam", "lr": 1e-3, "lp_lr": 1e-3, "weight_decay": 0.0, "epochs": 30, "schedule_epochs": 100}
    by_hand |= {"warmup": 0.0, "patience": 3, "metric": "balanced_accuracy", "batch_size": 96, "resize": 232}
    by_hand |= {"img_size": 224, "augment": "none", "lpft_mode": "train"}
    command = ["--data", "demo", "--protocol", "davila"]
    flat = settings.flat(settings_of(*command))
    assert {name: flat[name] for name in by_hand} == by_hand
    said = {"epochs": 5, "weight_decay": 0.3, "warmup": 0.1, "metric": "auroc", "lp_lr": 0.5, "augment": "strong"}
    flags = [text for name, value in said.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    chosen = settings_of(*command, *flags)
    flat = settings.flat(chosen)
    assert {name: flat[name] for name in by_hand} == by_hand | said
    groups = strategies.make_plan("lpft", Toy(), epochs=2, hyper=chosen.hyper).groups
    assert {group["weight_decay"] for group in groups} == {0.3}


def test_every_command_in_the_readme_parses():
    text = (ROOT / "README.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"ftcompare\.py (--.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert len(commands) >= 5
    for line in commands:
        settings_of(*shlex.split(line.replace("`", "")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "sensitivity"], "depends on a threshold"),
        (["--arch", "inception_v3"], "inception_v3 does not take pictures of 32 px"),
        (["--seed", "-1"], "'-1' is not a whole number of 0 or more"),
        (["--threshold", "sensitivity=0.0"], "--threshold sensitivity=0.0"),
        (["--val-fraction", "0"], "--val-fraction 0.0: give a share"),
        (["--warmup", "3"], "--warmup: '3' is not a number from 0 to 1"),
    ],
)
def test_settings_that_would_fail_later_are_refused_at_once(arguments, message, folder, tmp_path, run):
    code, _, err = run("--data", folder, *SMALL, *arguments, "--output-dir", tmp_path / "runs")
    assert code == 2 and message in err and err.count("\n") == 1, err
    assert not list(tmp_path.glob("runs/*/*/*/*/config.json"))


def test_a_seed_sets_head_order_and_augmentation_and_the_recipe_is_what_was_said(tmp_path, run, monkeypatch):
    """Training replaced by a look at what it was given: two seeds, every setting unlike its default."""
    given = []

    def look(model, plan, data, folder, recipe, *rest, **more):
        given.append((recipe, plan, [p.detach().clone() for p in strategies.find_head(model)[1].parameters()]))
        raise train.Diverged("only looked at")

    monkeypatch.setattr(train, "run", look)
    said = {
        "epochs": 7,
        "batch_size": 12,
        "opt": "sgd",
        "augment": "strong",
        "class_weights": "balanced",
        "warmup": 0.2,
    }
    said |= {
        "schedule_epochs": 9,
        "patience": 4,
        "grad_accum": 3,
        "clip_grad": 0.5,
        "split_seed": 3,
        "weight_decay": 0.2,
    }
    flags = [text for name, value in said.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    base = ["--data", "demo-tiny", "--arch", ARCH, "--weights", "none", "--img-size", "32", "--device", "cpu"]
    code, _, _ = run(*base, *flags, "--strategy", "ft", "l2sp", "--seed", "4", "5", "--output-dir", tmp_path)
    assert code == 1 and [recipe.seed for recipe, _, _ in given] == [4, 4, 5, 5]
    for recipe, plan, _ in given:
        assert {name: getattr(recipe, name) for name in said if hasattr(recipe, name)} == {
            name: value for name, value in said.items() if name not in ("split_seed", "weight_decay")
        }
        assert {g["weight_decay"] for g in plan.groups} == {0.2 if plan.strategy == "ft" else 0.0}
    heads = [head for _, _, head in given]
    alike = [[all(map(torch.equal, a, b)) for b in heads] for a in heads]
    assert alike == [[True, True, False, False]] * 2 + [[False, False, True, True]] * 2


def test_a_dataset_s_name_is_no_folder_that_the_output_could_lie_in(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "demo-tiny").mkdir()
    code, _, err = run("--data", "demo-tiny", *SMALL, "--dry-run", "--output-dir", "demo-tiny")
    assert code == 0, err


def test_the_output_cannot_lie_in_the_data_or_on_a_file(folder, tmp_path, run):
    code, _, err = run("--data", folder, *SMALL, "--output-dir", folder / "runs")
    assert code == 2 and "lies in the data folder" in err
    (tmp_path / "file").write_text("")
    code, _, err = run("--data", folder, *SMALL, "--output-dir", tmp_path / "file")
    assert code == 2 and "Traceback" not in err
