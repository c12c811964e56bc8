"""What a backbone starts from: files of weights, those that fit and others; the model of a finished run."""

import hashlib
import math
import re
import shutil
import urllib.error
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from toys import ARCH, SMALL, Tiny, Toy, half_trained, settings_of, toy_training, write_run

import models
import runs
import settings


def test_weights_of_a_run_load_like_a_torchvision_file(folder, tmp_path, run):
    base = ["--data", folder, *SMALL, "--strategy", "ft", "--epochs", "1"]
    assert run(*base, "--output-dir", tmp_path / "a")[0] == 0
    best = next((tmp_path / "a").glob("*/*/ft/*/best.pt"))
    rest = ["--arch", ARCH, "--img-size", "32", "--device", "cpu", "--epochs", "1", "--strategy", "lp"]
    code, out, _ = run("--data", "demo-tiny", *rest, "--weights", best, "--output-dir", tmp_path / "b")
    assert code == 0 and "its head (fc, 2 outputs) left out" in out
    names = models.new_model(ARCH).state_dict()
    counted = [n for n in names if not n.startswith("fc.") and "num_batches" not in n]
    assert f"{len(counted)} of {len(counted)} backbone tensors" in out
    probed = torch.load(next((tmp_path / "b").glob("*/*/lp/*/best.pt")), weights_only=True)["model"]
    source = torch.load(best, weights_only=True)["model"]
    assert all(torch.equal(probed[n], source[n]) for n in counted)


def test_half_precision_and_wrapped_names_load_and_mismatches_are_refused(tmp_path):
    model = models.new_model(ARCH)
    state = {f"module.{n}": v.half() if v.is_floating_point() else v for n, v in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "half.pth")
    weights = models.load_weights(str(tmp_path / "half.pth"), ARCH)
    built, _, note = models.build_model(ARCH, weights, 3, seed=1)
    assert "left out" in note and built.conv1[0].weight.dtype == torch.float32
    assert torch.equal(built.conv1[0].weight, model.conv1[0].weight.half().float())

    few = dict(list(model.state_dict().items())[:40])
    torch.save(few, tmp_path / "few.pth")
    with pytest.raises(runs.RunError, match=r"only \d+ of \d+ backbone tensors .* matched"):
        models.build_model(ARCH, models.load_weights(str(tmp_path / "few.pth"), ARCH), 3, seed=1)
    broken = dict(model.state_dict()) | {"conv1.0.weight": torch.full_like(model.conv1[0].weight, math.nan)}
    torch.save(broken, tmp_path / "nan.pth")
    with pytest.raises(runs.RunError, match=r"not finite in conv1.0.weight"):
        models.build_model(ARCH, models.load_weights(str(tmp_path / "nan.pth"), ARCH), 3, seed=1)
    (tmp_path / "text.pth").write_text("no checkpoint")
    torch.save({"model": Toy()}, tmp_path / "pickle.pth")  # a whole module: arbitrary code when loaded
    for name in ("text.pth", "pickle.pth", "absent.pth"):
        with pytest.raises(runs.RunError, match=name):
            models.load_weights(str(tmp_path / name), ARCH)


def test_densenet_files_with_old_names_load(tmp_path):
    model = models.new_model("densenet121")
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))([12]\.)")
    state = {old.sub(r"\1.\2", n): v for n, v in model.state_dict().items()}
    assert any(".norm.1." in n for n in state)
    torch.save(state, tmp_path / "densenet.pth")
    weights = models.load_weights(str(tmp_path / "densenet.pth"), "densenet121")
    built, _, note = models.build_model("densenet121", weights, 2, 0)
    name = "features.denseblock3.denselayer5.conv2.weight"
    # 121 norms with 4 tensors (no counters) and 120 convolutions without bias
    assert torch.equal(built.state_dict()[name], model.state_dict()[name]) and "604 of 604" in note


def saved(file, content):
    torch.save(content, file)
    return str(file)


def loaded(file, arch):
    """(the model, what was said) of a file of weights, as a sweep loads it: first checked, then built."""
    weights = models.check_weights(models.load_weights(str(file), arch), arch)
    model, _, note = models.build_model(arch, weights, 2, seed=1)
    return model, note


@pytest.fixture(scope="module")
def nets():
    """State dicts with random weights of architectures that are alike in part."""
    torch.manual_seed(0)
    return {a: dict(models.new_model(a).state_dict()) for a in ("resnet18", "resnet34", "efficientnet_b1", ARCH)}


def below(prefix, state):
    return {f"{prefix}.{name}": value for name, value in state.items()}


# 2 + 2 + 2 + 2 blocks in resnet18 and 3 + 4 + 6 + 3 in resnet34: 8 more, of 2 convolutions (1 tensor each)
# and 2 norms (5 tensors each, with the counter): 8 * 12 = 96. Backbone: 1 + 4 of the stem, 8 blocks of 10, 3
# shortcuts of 5: 100; in resnet34 180.
DEEPER = r"100 of 100 .* matched; without a place in it, 96 of the file: layer1.2"


@pytest.mark.parametrize(
    ("arch", "message", "content"),
    [
        ("resnet18", DEEPER, lambda n: n["resnet34"]),
        ("resnet18", DEEPER, lambda n: {"state_dict": below("model", n["resnet34"])}),
        ("resnet34", "only 100 of 180 .*; missing: layer1.2", lambda n: n["resnet18"]),
        (
            "resnet18",
            "; without a place in it, 1 of the file: layer4.2.conv1.weight;",
            lambda n: n["resnet18"] | {"layer4.2.conv1.weight": torch.zeros(512, 512, 3, 3)},
        ),
        (
            "resnet18",
            "1 of the file: layer5.0.conv1.weight",
            lambda n: n["resnet18"] | {"layer5.0.conv1.weight": torch.zeros(9, 512, 3, 3)},
        ),
        (
            "resnet18",
            "1 of the file: layer1.0.se.fc1.weight",
            lambda n: n["resnet18"] | {"layer1.0.se.fc1.weight": torch.zeros(4, 64)},
        ),
        ("efficientnet_b0", "309 of 309 .*the file: features.1.1.block", lambda n: n["efficientnet_b1"]),
        (
            "resnet18",
            "only 99 of 100 .*; missing: conv1.weight",
            lambda n: {k: v for k, v in n["resnet18"].items() if k != "conv1.weight"},
        ),
        (
            "resnet18",
            r"only 99 of 100 .*; of another shape: layer2.0.bn1.running_var \(64,\), not \(128,\)",
            lambda n: n["resnet18"] | {"layer2.0.bn1.running_var": torch.ones(64)},
        ),
        (
            "resnet18",
            r"only 99 of 100 .*; of another shape: conv1.weight \(64, 4, 7, 7\), not \(64, 3, 7, 7\)",
            lambda n: n["resnet18"] | {"conv1.weight": torch.zeros(64, 4, 7, 7)},
        ),
        (
            "resnet18",
            r"only 99 of 100 .*; not plain numbers: layer1.0.conv1.weight \(int8\)",
            lambda n: n["resnet18"] | {"layer1.0.conv1.weight": torch.ones(64, 64, 3, 3, dtype=torch.int8)},
        ),
        (
            "resnet18",
            "holds the backbone 2 times, below student., teacher.; save the one to start from",
            lambda n: below("student", n["resnet18"]) | below("teacher", n["resnet18"]),
        ),
        (
            "resnet18",
            "holds the weights of resnet34, not of resnet18; pass --arch resnet34",
            lambda n: {"model": n["resnet18"], "meta": {"arch": "resnet34"}},
        ),
        ("resnet18", "weights of resnet34, not of", lambda n: {"state_dict": n["resnet18"], "arch": "ResNet-34"}),
        ("resnet18", "weights of mine, not of", lambda n: {"model": n["resnet18"], "meta": {"arch": "mine"}}),
    ],
)
def test_a_file_of_another_architecture_is_refused_in_a_line(nets, tmp_path, arch, message, content):
    file = saved(tmp_path / "w.pth", content(nets))
    with pytest.raises(runs.RunError, match=message) as caught:
        loaded(file, arch)
    assert "\n" not in str(caught.value) and file in str(caught.value)


def with_heads(state):
    heads = {"fc.0.weight": (512, 512), "fc.2.weight": (128, 512), "projector.0.bias": (4,)}
    return state | {name: torch.zeros(shape) for name, shape in heads.items()}


def moved(state):
    """As a momentum copy is: other values under the same names."""
    return {name: value + 1 for name, value in state.items()}


def moco(state):
    """The query encoder with a projection for its head, a momentum copy, a queue."""
    both = below("module.encoder_q", with_heads(state)) | below("module.encoder_k", moved(state))
    return {"arch": "resnet18", "state_dict": both | {"module.queue": torch.zeros(128, 8)}}


def without_counters(state):
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    return kept | {"aux.w": torch.ones(1)}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (moco, "(below state_dict.encoder_q), its head (fc, 2 tensors) left out, other tensors unused: 122"),
        (
            lambda s: with_heads(s) | below("momentum_encoder", moved(s)),
            "matched, its head (fc, 2 tensors) left out, other tensors unused: 121 (projector.0.bias",
        ),
        (lambda s: {"arch": "my_net", "state_dict": below("model", s)}, "(below state_dict.model), it has no head"),
        (without_counters, "matched, it has no head, other tensors unused: 1 (aux.w)"),
    ],
)
def test_what_is_no_part_of_a_backbone_may_come_along_and_is_said(nets, tmp_path, content, said):
    """Of 122 tensors of resnet18 2 are the head: 120 with the 20 counters of its norms."""
    state = {n: v for n, v in nets["resnet18"].items() if not n.startswith("fc.")}
    assert len(state) == 120
    model, note = loaded(saved(tmp_path / "w.pth", content(state)), "resnet18")
    assert note.startswith("100 of 100 backbone tensors of resnet18 matched") and said in note, note
    got = model.state_dict()
    assert all(torch.equal(got[n], v) for n, v in state.items() if not n.endswith("num_batches_tracked"))


def test_layers_behind_the_head_are_head_and_layers_before_it_are_not():
    backbone = "features.0.weight classifier.0.weight classifier.3.weight".split()  # VGG's; then its head
    inside = lambda name: models.part_of_backbone(name, backbone, "classifier.6")
    names = "classifier.6.0.weight classifier.6.bias classifier.7.weight classifier.10.weight aux1.fc.weight"
    assert [name for name in names.split() if inside(name)] == []
    names = "features.30.weight classifier.1.weight classifier.5.running_mean classifier.extra.weight"
    assert [name for name in names.split() if not inside(name)] == []


@pytest.mark.parametrize("half", [False, True])
def test_a_grey_first_convolution_gives_a_grey_image_the_same_activations(nets, tmp_path, half):
    torch.manual_seed(3)
    grey = torch.randn(64, 1, 7, 7)
    grey = grey.half() if half else grey
    state = nets["resnet18"] | {"conv1.weight": grey}
    meta = {"mean": [0.25], "std": [0.5]}
    file = saved(tmp_path / "grey.pth", {"state_dict": state, "meta": meta})
    model, note = loaded(file, "resnet18")
    assert "conv1.weight of one channel (grey) spread over three, a third each" in note
    image = torch.rand(2, 1, 20, 20, dtype=torch.float64)
    expected = nn.functional.conv2d((image - 0.25) / 0.5, grey.double(), stride=2, padding=3)
    weights = models.load_weights(file, "resnet18")
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (weights.mean, weights.std))
    got = model.conv1.double()((image.expand(-1, 3, -1, -1) - mean) / std)
    assert expected.abs().max() > 1
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)  # float32 thirds of weights
    colour = torch.zeros(1, 3, 20, 20, dtype=torch.float64)
    colour[:, 1] = 3.0  # and a third of it where it stands in one channel: no channel is the grey one
    one = nn.functional.conv2d(torch.ones(1, 1, 20, 20).double(), grey.double(), stride=2, padding=3)
    torch.testing.assert_close(model.conv1(colour), one, rtol=0, atol=1e-5)


def test_the_file_of_a_grey_net_says_so_where_a_sweep_prints_its_weights(nets, folder, tmp_path, run):
    state = nets[ARCH] | {"conv1.0.weight": nets[ARCH]["conv1.0.weight"].sum(dim=1, keepdim=True)}
    file = saved(tmp_path / "grey.pth", state)
    small = ["--arch", ARCH, "--img-size", "32", "--device", "cpu", "--epochs", "1", "--strategy", "lp"]
    code, out, err = run("--data", folder, *small, "--weights", file, "--output-dir", tmp_path / "runs")
    assert code == 0 and "conv1.0.weight of one channel (grey) spread over three" in out, err


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"mean": [123.7, 116.3, 103.5], "std": [58.4, 57.1, 57.4]}, r"its mean is \[123.7, 116.3, 103.5\], not"),
        ({"mean": [0.5] * 3, "std": [127.5] * 3}, r"its std is \[127.5, 127.5, 127.5\]"),
        ({"mean": [-0.1, 0.5, 0.5], "std": [0.5] * 3}, "its mean is"),
        ({"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]}, "its std is"),
        ({"mean": [math.nan] * 3, "std": [0.5] * 3}, "its mean is"),
        ({"mean": "imagenet", "std": [0.5] * 3}, "its mean is imagenet"),
        ({"mean": [0.5] * 3}, "its std is None"),
    ],
)
def test_mean_and_std_that_are_not_of_pixels_from_0_to_1_are_refused(nets, tmp_path, meta, message):
    file = saved(tmp_path / "w.pth", {"model": nets[ARCH], "meta": meta})
    with pytest.raises(runs.RunError, match=message) as caught:
        models.load_weights(file, ARCH)
    assert "divided by 255" in str(caught.value) and "\n" not in str(caught.value)


def test_mean_and_std_from_0_to_1_are_kept_with_their_bounds(nets, tmp_path):
    meta = {"mean": [0, 0.5, 1], "std": [1 / 255, 1, 0.5]}
    file = saved(tmp_path / "w.pth", {"model": nets[ARCH], "meta": meta})
    weights = models.load_weights(file, ARCH)
    assert weights.mean == (0, 0.5, 1) and weights.std == (1 / 255, 1, 0.5)
    weights = models.load_weights(saved(tmp_path / "w.pth", nets[ARCH]), ARCH)
    assert weights.mean == (0.485, 0.456, 0.406) and weights.std == (0.229, 0.224, 0.225)


def test_the_run_of_an_inception_net_hands_on_that_it_rescales_its_input(tmp_path):
    """GoogLeNet's ImageNet weights take pixels from -1 to 1, and so does a run that began with them."""
    state = models.new_model("googlenet").state_dict()
    for rescales in (True, False):
        file = saved(tmp_path / "best.pt", {"model": state, "meta": {"transform_input": rescales}})
        assert loaded(file, "googlenet")[0].transform_input is rescales


def test_the_imagenet_file_by_its_path_is_what_imagenet_is(nets, tmp_path, monkeypatch):
    """EfficientNetV2-L's file is of mean 0.5: one that was put somewhere else is known by its hash."""
    file = saved(tmp_path / "elsewhere.pth", {n: v for n, v in nets[ARCH].items() if n != "fc.bias"})
    digest = hashlib.sha256(Path(file).read_bytes()).hexdigest()
    monkeypatch.setattr(models, "imagenet_hash", lambda arch: digest[:8])
    chosen = SimpleNamespace(transforms=lambda: SimpleNamespace(mean=(0.5,) * 3, std=(0.25,) * 3))
    known = {"IMAGENET1K_V1": chosen}
    monkeypatch.setattr(models.torchvision.models, "get_model_weights", lambda arch: known)
    weights = models.load_weights(file, ARCH)
    assert (weights.mean, weights.std, weights.transform_input) == ((0.5,) * 3, (0.25,) * 3, True)


def test_weights_of_other_versions_of_torchvision_load(nets, tmp_path):
    """ViT's files have older names; MNASNet's own loading asks for a version that a plain dict has not."""
    state = models.new_model("vit_b_32").state_dict()
    old = {n.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): v for n, v in state.items()}
    assert len(old.keys() - state.keys()) == 12 * 4
    model, note = loaded(saved(tmp_path / "vit.pth", old), "vit_b_32")
    name = "encoder.layers.encoder_layer_7.mlp.3.weight"
    assert note.startswith("150 of 150") and torch.equal(model.state_dict()[name], state[name])
    state = dict(models.new_model("mnasnet0_5").state_dict())
    model, _ = loaded(saved(tmp_path / "mnas.pth", state), "mnasnet0_5")
    assert torch.equal(model.layers[0].weight, state["layers.0.weight"])


def test_the_weights_of_a_run_that_is_not_finished_are_refused_before_anything_is_trained(tmp_path, run):
    other = half_trained(tmp_path / "r")
    (tmp_path / "link.pt").symlink_to(tmp_path / "r" / "best.pt")
    small = ["--data", "demo-tiny", "--arch", ARCH, "--img-size", "32", "--epochs", "1", "--strategy", "lp"]
    for file in (other.file("best.pt"), tmp_path / "link.pt"):
        code, _, err = run(*small, "--weights", file, "--output-dir", tmp_path / "runs")
        assert code == 2 and err.count("\n") == 1 and f"{file}: its run is not finished" in err
    assert not list((tmp_path / "runs").rglob("config.json"))

    other.write_json("failed.json", {"reason": "the loss is nan"})
    other.file("config.json").unlink()
    with pytest.raises(runs.RunError, match="not finished"):
        models.load_weights(str(other.file("best.pt")), ARCH)
    other.write_json("metrics.json", {})
    assert models.load_weights(str(other.file("best.pt")), ARCH).state
    shutil.copy(other.file("best.pt"), tmp_path / "mine.pt")  # a copy stands alone
    assert models.load_weights(str(tmp_path / "mine.pt"), ARCH).state


def test_weights_that_fit_the_first_backbone_only_are_refused_before_it_is_trained(nets, tmp_path, run):
    file = saved(tmp_path / "w.pth", nets[ARCH])
    arguments = ["--data", "demo-tiny", "--img-size", "32", "--epochs", "1", "--strategy", "lp"]
    arguments += ["--arch", ARCH, "resnet18", "--weights", file, "--output-dir", tmp_path / "runs"]
    code, _, err = run(*arguments)
    assert code == 2 and err.count("\n") == 1 and "backbone tensors of resnet18 matched" in err
    assert not list((tmp_path / "runs").rglob("config.json"))


def test_every_architecture_takes_a_file_of_its_own_and_what_was_matched_how_is_said(nets, tmp_path, run):
    other = dict(models.new_model("squeezenet1_1").state_dict())
    files = [saved(tmp_path / "one=two.pth", below("encoder", nets[ARCH])), saved(tmp_path / "b.pth", other)]
    arguments = ["--data", "demo-tiny", "--img-size", "32", "--epochs", "1", "--strategy", "lp", "--device", "cpu"]
    arguments += ["--arch", ARCH, "squeezenet1_1", "--output-dir", tmp_path / "runs"]
    code, out, err = run(*arguments, "--weights", f"{ARCH}={files[0]}", f"squeezenet1_1={files[1]}")
    assert code == 0, err
    assert f"backbone tensors of {ARCH} matched (below encoder), its head (fc, 1000 outputs) left out" in out
    assert "backbone tensors of squeezenet1_1 matched, its head (classifier.1, 1000 outputs) left out" in out
    for arch, state, name in ((ARCH, nets[ARCH], "conv5.0.weight"), ("squeezenet1_1", other, "features.0.weight")):
        best = torch.load(next(tmp_path.glob(f"runs/*/{arch}/lp/*/best.pt")), weights_only=True)["model"]
        assert torch.equal(best[name], state[name])


def test_all_files_that_do_not_fit_are_named_before_anything_is_pretrained_or_trained(nets, tmp_path, run, monkeypatch):
    monkeypatch.setattr("ftcompare.demo_weights", lambda *_: pytest.fail("pretrained before the files were looked at"))
    file = saved(tmp_path / "w.pth", nets["resnet34"])
    (tmp_path / "page.pth").write_text("<!DOCTYPE html>")
    arguments = ["--data", "demo-tiny", "--arch", ARCH, "resnet18", "resnet34", "squeezenet1_1", "--img-size", "64"]
    arguments += [
        "--weights",
        "squeezenet1_1=demo",
        f"resnet34={file}",
        f"resnet18={file}",
        f"{ARCH}={tmp_path}/page.pth",
    ]
    code, _, err = run(*arguments, "--epochs", "1", "--strategy", "lp", "--output-dir", tmp_path / "runs")
    assert code == 2 and err.count("\n") == 1
    assert "backbone tensors of resnet18 matched" in err and "page.pth: is a web page" in err and "resnet34 " not in err
    assert not list((tmp_path / "runs").rglob("config.json"))


@pytest.mark.parametrize(
    ("said", "by_arch"),
    [
        ("", {"resnet18": "imagenet", "vgg11": "imagenet"}),
        ("--weights none", {"resnet18": "none", "vgg11": "none"}),
        ("--weights a.pth vgg11=b.pth", {"resnet18": "a.pth", "vgg11": "b.pth"}),
        ("--weights vgg11=none a=b.pth", {"resnet18": "a=b.pth", "vgg11": "none"}),
        ("--weights vgg11=a=b.pth resnet18=imagenet", {"resnet18": "imagenet", "vgg11": "a=b.pth"}),
        ("--weights vgg11=a.pth", "--weights says nothing for resnet18: add resnet18=FILE, imagenet or none"),
        ("--weights a.pth b.pth", "--weights a.pth b.pth: give one for every --arch, or ARCH=FILE for each"),
        ("--weights a.pth vgg13=b.pth", "vgg13 is not among --arch resnet18 vgg11"),
        ("--weights a.pth vgg11=b.pth vgg11=c.pth", "--weights vgg11=...: given twice"),
    ],
)
def test_weights_are_said_once_for_all_or_for_each(said, by_arch):
    command = ["--data", "x", "--arch", "resnet18", "vgg11", *said.split()]
    if isinstance(by_arch, dict):
        assert settings.weights_of(settings_of(*command)) == by_arch
    else:
        with pytest.raises(settings.UsageError, match=re.escape(by_arch)):
            settings_of(*command)


def test_the_state_of_a_training_is_no_file_of_weights(tmp_path):
    toy_training(tmp_path, epochs=1)
    with pytest.raises(runs.RunError, match="state of a run's training; pass the best.pt"):
        models.load_weights(str(tmp_path / "last.pt"), ARCH)


def test_imagenet_weights_offline_and_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    expected = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    with pytest.raises(runs.RunError, match=rf"put it at {re.escape(str(expected))}"):
        models.load_weights("imagenet", "resnet18")
    expected.write_bytes(b"damaged")
    with pytest.raises(runs.RunError, match="SHA-256 does not begin with f37072fd"):
        models.load_weights("imagenet", "resnet18")


def test_squeezenet_can_say_no():
    """torchvision has a ReLU behind SqueezeNet's head: no logit below 0, no score below 0.5 for a label."""
    model, _, _ = models.build_model("squeezenet1_1", models.Weights("none"), 4, seed=0)
    assert model.eval()(torch.randn(8, 3, 32, 32)).min() < 0


def test_a_finished_run_gives_its_model_in_eval_with_its_weights_and_its_input_transform(tiny, tmp_path):
    about = {"transform_input": True, "thresholds": [0.5], "strategy": "LP-FT", "resize": 9}
    run = models.load_finished(tiny(tmp_path / "r", ["a", "b"], **about))
    assert not any(module.training for module in run.model.modules())
    assert run.model.transform_input is True and (run.classes, run.thresholds) == (["a", "b"], [0.5])
    assert (run.strategy, run.img_size, run.resize, run.bit_depth) == ("LP-FT", 8, 9, None)
    x = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(run.model(x), x.mean(dim=(2, 3))[:, :2])
    as_built = models.load_finished(tiny(tmp_path / "s", ["a", "b"], thresholds=[0.5]))  # None in its meta
    assert as_built.model.transform_input is False


def test_an_architecture_that_torchvision_has_not_is_named(tmp_path):
    run = write_run(tmp_path / "r", Tiny(3), classes=list("abc"), arch="resnet19")
    with pytest.raises(runs.RunError, match="cannot build its 'resnet19'"):
        models.load_finished(run)


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"img_size": 20_000}, "img_size is 20000"),
        ({"img_size": 0}, "img_size is 0"),
        ({"img_size": True}, "img_size is True"),
        ({"img_size": 8.0}, "img_size is 8.0"),
        ({"img_size": "8"}, "img_size is 8"),
        ({"resize": 10**9}, "resize is 1000000000"),
        ({"resize": [8]}, r"resize is \[8\]"),
        ({"bit_depth": 64}, "bit_depth is 64"),
        ({"transform_input": "yes"}, "transform_input is yes"),
        ({"arch": 5}, "arch is 5"),
        ({"task": "regression"}, "task is regression"),
        ({"task": None, "img_size": -1}, "task is None; img_size is -1"),
        ({"classes": "abc"}, "classes is abc"),
        ({"classes": {"a": 1}}, "classes is {'a': 1}"),
        ({"classes": ["a", 2, "c"]}, "classes is"),
        ({"classes": ["a", "b", "a"]}, "classes is"),
        ({"classes": []}, "classes is"),
        ({"classes": list("abcd")}, r"do not fit tiny with 4 classes: fc.weight is \(3, 3\), not \(4, 3\)"),
        ({"mean": [0.5] * 4}, "its mean has 4 numbers"),
        ({"std": ["x"] * 3}, "its std is"),
        ({"mean": torch.zeros(3).to_sparse()}, "its mean is tensor"),
    ],
)
def test_a_finished_run_with_an_odd_meta_is_refused_in_a_line(tiny, tmp_path, run, about, message):
    """Of a file that someone was sent: nothing is allocated for pictures of 20,000 px."""
    folder = write_run(tmp_path / "r", Tiny(3), **({"classes": list("abc")} | about))
    with pytest.raises(runs.RunError, match=message) as caught:
        models.load_finished(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    code, _, err = run("--predict", tmp_path, "--run", folder)
    assert code == 2 and err.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s | {"fc.weight": s["fc.weight"].to_sparse()},
            r"fc.weight does not hold plain numbers \(sparse_coo\)",
        ),
        (lambda s: s | {"fc.weight": s["fc.weight"].to(torch.complex64)}, r"plain numbers \(complex64\)"),
        (lambda s: s | {"fc.bias": s["fc.bias"] * math.nan}, "its fc.bias has values that are not finite"),
        (lambda s: s | {"fc.bias": [0.0, 0.0, 0.0]}, "its fc.bias is a list, no tensor"),
        (lambda s: {n: v for n, v in s.items() if n != "fc.bias"}, "they lack fc.bias"),
        (lambda s: s | {"more": torch.ones(1)}, "they have, and it has not, more"),
        (lambda s: s | {7: torch.ones(1)}, "they have, and it has not, 7"),
    ],
)
def test_a_finished_run_with_odd_tensors_is_refused_in_a_line(tiny, tmp_path, change, message):
    folder = runs.RunFolder(write_run(tmp_path / "r", Tiny(3), classes=list("abc")))
    checkpoint = runs.load_checkpoint(folder.best)
    folder.save("best.pt", checkpoint | {"model": change(checkpoint["model"])})
    with pytest.raises(runs.RunError, match=message) as caught:
        models.load_finished(folder.path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thresholds", [5, "ab", [None, 0.5], ["x", "y"], {"a": 0.5, "b": 0.5}, [0.5]])
def test_thresholds_of_another_kind_are_refused(tiny, tmp_path, thresholds):
    folder = tiny(tmp_path / "r", ["a", "b"], task="multilabel", thresholds=thresholds)
    with pytest.raises(runs.RunError, match="no usable thresholds"):
        models.load_finished(folder)


def test_a_best_pt_that_git_lfs_left_out_is_named(tiny, tmp_path):
    folder = runs.RunFolder(tiny(tmp_path / "r", list("abc")))
    folder.best.write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(runs.RunError, match="best.pt: is a Git LFS pointer"):
        models.load_finished(folder.path)
