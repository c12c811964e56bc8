"""timm's models: with a module that stands for timm everywhere, with timm itself where it is installed."""

import dataclasses
import hashlib
import importlib.util
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from toys import read, settings_of, toy_data, toy_training

import models
import runs
import settings
import strategies


class Net(nn.Module):
    """As timm's are: a stem, blocks, a head that get_classifier gives. Takes pictures of 12 px alone."""

    def __init__(self, classes, heads=1):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(*(nn.Conv2d(4, 4, 1) for _ in range(3)))
        self.head = nn.Linear(4, classes) if classes else nn.Identity()
        self.head_dist = nn.Linear(4, classes) if heads == 2 else None

    def get_classifier(self):
        return (self.head, self.head_dist) if self.head_dist else self.head

    def forward(self, x):
        assert x.shape[2] == 12, f"Input height ({x.shape[2]}) doesn't match model (12)."
        return self.head(self.blocks(torch.relu(self.norm(self.stem(x)))).mean(dim=(2, 3)))


def config(size=12, classes=7, tag="a1", has_weights=True, channels=3):
    return SimpleNamespace(
        mean=(0.5, 0.25, 0.125),
        std=(0.5, 0.5, 0.25),
        input_size=(channels, size, size),
        num_classes=classes,
        tag=tag,
        has_weights=has_weights,
    )


CONFIGS = {
    "net": config(),
    "net.a1": config(),
    "net.a2": config(tag="a2"),
    "headless": config(classes=0, tag="self"),
    "headless.self": config(classes=0, tag="self"),
    "large": config(size=48),
    "bare": config(has_weights=False, tag=None),
    "two_heads": config(),
    "grey": config(channels=1),
}


@pytest.fixture
def fake(monkeypatch):
    """A timm of a few models; what its loader gives by tag."""
    states = {tag: Net(classes).state_dict() for tag, classes in (("a1", 7), ("a2", 7), ("self", 0))}
    for number, state in enumerate(states.values(), 1):
        for name in state:
            if state[name].is_floating_point():
                state[name] = torch.full_like(state[name], number / 4)

    def create_model(name, pretrained=False, num_classes=None):
        about = CONFIGS[name]
        model = Net(about.num_classes if num_classes is None else num_classes, 2 if name == "two_heads" else 1)
        if pretrained:
            assert num_classes is None  # timm would load without being strict
            model.load_state_dict(states[about.tag])
        return model

    def get_pretrained_cfg(name):
        if name not in CONFIGS:
            raise RuntimeError(f"Invalid pretrained tag ({name.partition('.')[2]}) for {name.partition('.')[0]}.")
        return CONFIGS[name]

    timm = SimpleNamespace(
        is_model=lambda name: name.partition(".")[0] in CONFIGS,
        list_models=lambda pattern="", pretrained=False: (
            [n for n in CONFIGS if "." in n] if pretrained else [n for n in CONFIGS if "." not in n]
        ),
        create_model=create_model,
        models=SimpleNamespace(get_pretrained_cfg=get_pretrained_cfg),
        states=states,
    )
    monkeypatch.setitem(sys.modules, "timm", timm)
    return timm


def test_without_timm_a_line_says_what_to_install(monkeypatch, run, tmp_path):
    monkeypatch.setitem(sys.modules, "timm", None)
    code, _, err = run("--data", "demo-tiny", "--arch", "timm:resnet18", "--output-dir", tmp_path)
    assert code == 2 and err == "ftcompare: --arch timm:resnet18 needs timm, which is not installed: pip install timm\n"


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("timm:nett", "unknown --arch timm:nett; timm has net"),
        ("timm:net.a9", "unknown --arch timm:net.a9; timm's tags for net are a1, a2"),
        ("timm:two_heads", "timm:two_heads: its head is not one Linear layer"),
        ("timm:bare", "timm has no weights for timm:bare; pass --weights FILE or none"),
        ("timm:grey", "timm:grey: timm has no size, mean and std of colour images for it"),
        ("timm:hf-hub:me/net", "unknown --arch timm:hf-hub:me/net"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_in_a_line(fake, run, tmp_path, arch, message):
    where = ["--output-dir", tmp_path, "--device", "cpu"]
    code, _, err = run("--data", "demo-tiny", "--arch", arch, "--weights", "imagenet", "--img-size", "12", *where)
    assert code == 2 and message in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("config.json"))


def test_size_mean_and_std_are_those_of_the_model(fake):
    """Unless something else is said; --weights none has them, too."""
    assert settings_of("--data", "x", "--arch", "timm:net").preparation.img_size == 12
    assert settings_of("--data", "x", "--arch", "timm:net", "timm:headless").preparation.img_size == 12
    assert settings_of("--data", "x", "--arch", "timm:net", "--img-size", "50").preparation.img_size == 50
    assert settings_of("--data", "x", "--arch", "resnet18").preparation.img_size == 224
    for archs in (["timm:net", "timm:large"], ["resnet18", "timm:net"]):
        with pytest.raises(runs.RunError, match="the sizes differ .*; say --img-size, which holds for all"):
            settings_of("--data", "x", "--arch", *archs)
    for source in ("none", "imagenet"):
        weights = models.load_weights(source, "timm:net")
        assert (weights.mean, weights.std) == ((0.5, 0.25, 0.125), (0.5, 0.5, 0.25))


def test_the_size_of_a_model_is_said_where_another_was_asked_for(fake):
    with pytest.raises(runs.RunError, match=r"does not take pictures of 32 px .*\(12\). Its own size is 12 px"):
        models.check_size("timm:net", 32)
    models.check_size("timm:net", 12)


@pytest.mark.parametrize(
    ("arch", "tag", "value"), [("net", "a1", 0.25), ("net.a2", "a2", 0.5), ("headless", "self", 0.75)]
)
def test_the_weights_of_a_tag_come_through_timm_s_own_loader(fake, arch, tag, value):
    weights = models.check_weights(models.load_weights("imagenet", f"timm:{arch}"), f"timm:{arch}")
    assert weights.source == f"timm:{arch.partition('.')[0]}.{tag}"
    model, head, note = models.build_model(f"timm:{arch}", weights, 3, seed=0)
    for name, tensor in model.state_dict().items():
        if not name.startswith("head") and tensor.is_floating_point():
            assert (tensor == value).all(), name
    assert head is model.head and head.out_features == 3 and note.startswith("11 of 11"), note
    other = models.load_weights("imagenet", "timm:net.a2" if tag != "a2" else "timm:net")
    assert len(weights.sha256) == 64 and weights.sha256 != other.sha256


def test_the_digest_is_of_names_shapes_types_and_values():
    tensors = {"b": torch.tensor([[1.5]]), "a": torch.tensor(2)}
    by_hand = b"a torch.int64 ()\n" + bytes([2]) + bytes(7) + b"b torch.float32 (1, 1)\n" + bytes([0, 0, 0xC0, 0x3F])
    assert models.digest_of(tensors) == hashlib.sha256(by_hand).hexdigest()


def test_a_loader_that_fails_is_told_in_a_line(fake, monkeypatch):
    def offline(*args, **more):
        raise OSError("cannot reach\nthe hub")

    monkeypatch.setattr(fake, "create_model", offline)
    with pytest.raises(
        runs.RunError, match=r"weights of timm:net.a1 \(cannot reach the hub\); pass --weights FILE or none"
    ):
        models.load_weights("imagenet", "timm:net")


def test_a_file_of_weights_fits_a_model_of_timm_s(fake, tmp_path):
    for number, content in enumerate(
        (
            {"arch": "net", "state_dict": fake.states["a2"]},
            {"model": fake.states["a2"], "meta": {"arch": "timm:net.a1"}},  # the tag is not the architecture
        )
    ):
        torch.save(content, tmp_path / f"{number}.pth")
        weights = models.load_weights(str(tmp_path / f"{number}.pth"), "timm:net")
        model, _, note = models.build_model("timm:net", weights, 2, seed=0)
        assert (model.stem.weight == 0.5).all() and "those of timm are taken" in note
        assert weights.mean == (0.5, 0.25, 0.125)
    torch.save({"model": fake.states["a2"], "meta": {"arch": "net"}}, tmp_path / "x.pth")
    with pytest.raises(runs.RunError, match="holds the weights of net, not of timm:net"):
        models.load_weights(str(tmp_path / "x.pth"), "timm:net")


def test_a_training_script_s_name_of_the_same_architecture_is_no_other_one(fake, monkeypatch, tmp_path):
    """timm's training script writes arch: resnet18, which torchvision has, too."""
    monkeypatch.setitem(CONFIGS, "resnet18", config())
    torch.save({"arch": "resnet18", "state_dict": fake.states["a1"]}, tmp_path / "x.pth")
    assert models.load_weights(str(tmp_path / "x.pth"), "timm:resnet18").state
    with pytest.raises(runs.RunError, match="holds the weights of resnet18, not of timm:net"):
        models.load_weights(str(tmp_path / "x.pth"), "timm:net")


def test_weights_are_said_for_timm_s_models_by_name(fake):
    chosen = settings_of(
        "--data", "x", "--arch", "timm:net", "timm:headless.self", "--weights", "none", "timm:net=a=b.pth"
    )
    assert settings.weights_of(chosen) == {"timm:net": "a=b.pth", "timm:headless.self": "none"}
    with pytest.raises(settings.UsageError, match="timm:large is not among --arch timm:net"):
        settings_of("--data", "x", "--arch", "timm:net", "--weights", "none", "timm:large=a.pth")


def test_a_sweep_with_a_model_of_timm_s_its_report_and_its_use(fake, run, tmp_path):
    said = "--data demo-tiny --arch timm:net --img-size 12 --weights imagenet --epochs 1 --strategy lp ft --gradcam 1"
    arguments = [*said.split(), "--device", "cpu", "--output-dir", tmp_path / "runs"]
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "weights: 11 of 11 backbone tensors of timm:net matched" in out
    folder = tmp_path / "runs" / "demo-tiny" / "timm-net" / "lp" / "seed0-fold0"
    state = torch.load(folder / "best.pt", weights_only=True)
    assert state["meta"]["arch"] == "timm:net" and state["meta"]["mean"] == [0.5, 0.25, 0.125]
    assert all(torch.equal(state["model"][n], v) for n, v in fake.states["a1"].items() if not n.startswith("head"))
    page = (tmp_path / "runs" / "report.md").read_text()
    assert "The backbone was net from timm, initialised with pretrained weights (timm:net.a1)" in page
    assert {row["arch"] for row in read(tmp_path / "runs" / "results.csv")} == {"timm:net"}
    assert (tmp_path / "runs" / "figures" / "gradcam-demo-tiny-timm-net.png").is_file()
    assert run(*arguments)[1].count("done before") == 2
    assert models.load_finished(folder).arch == "timm:net"


# ---- timm itself ----

FAMILIES = {  # a small one of each, and a size that it takes
    "resnet18": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "convnext_atto": 64,
    "vit_tiny_patch16_224": 224,
    "swin_tiny_patch4_window7_224": 224,
    "mobilenetv3_small_050": 64,
    "regnetx_002": 64,
    "deit_tiny_patch16_224": 224,
    "vit_small_patch14_dinov2": 518,
}
installed = pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="timm is not installed")


def small_data(size, mean, std):
    """Two images to train on, two to validate."""
    data = toy_data(n=20, size=size)
    rows = {"train": np.arange(2), "val": np.arange(2, 4), "test": np.arange(0)}
    return dataclasses.replace(data, rows=rows, mean=mean, std=std)


@installed
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_of_timm_s_trains_and_what_is_frozen_stays_as_it_was(name, tmp_path):
    arch, size = f"timm:{name}", FAMILIES[name]
    weights = models.load_weights("none", arch)
    for strategy in ("lp", "ft"):
        model, head, _ = models.build_model(arch, weights, 2, seed=0)
        before = {n: v.clone() for n, v in model.state_dict().items()}
        place = strategies.find_head(model)[0]
        blocks = strategies.blocks_of(model, head)
        assert len(blocks) >= 5 and blocks[-1].modules == [head] and head is model.get_classifier()
        toy_training(
            tmp_path / strategy,
            strategy,
            epochs=1,
            model=model,
            data=small_data(size, weights.mean, weights.std),
            batch_size=2,
        )
        after = model.state_dict()
        changed = {n for n in before if not torch.equal(before[n], after[n])}
        assert {f"{place}.weight", f"{place}.bias"} <= changed
        if strategy == "lp":
            assert changed == {f"{place}.weight", f"{place}.bias"}  # BatchNorm statistics, too, are as they were
        else:
            assert all(changed & set(block.parameters) for block in blocks), [b.name for b in blocks]


@installed
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_s_config_is_timm_s(name):
    import timm

    about = timm.data.resolve_data_config({}, model=timm.create_model(name))
    weights, size = models.load_weights("none", f"timm:{name}"), models.own_size([f"timm:{name}"])
    assert (weights.mean, weights.std, (3, size, size)) == (about["mean"], about["std"], about["input_size"])


@installed
def test_weights_of_a_tag_are_what_timm_loads(tmp_path, monkeypatch):
    """A file in the place of the download."""
    import timm

    torch.manual_seed(5)
    state = timm.create_model("regnetx_002").state_dict()
    torch.save(state, tmp_path / "w.pth")
    plain = timm.create_model

    def from_file(name, pretrained=False, **more):
        overlay = {"file": str(tmp_path / "w.pth")} if pretrained else None
        return plain(name, pretrained=pretrained, pretrained_cfg_overlay=overlay, **more)

    monkeypatch.setattr(timm, "create_model", from_file)
    weights = models.load_weights("imagenet", "timm:regnetx_002")
    model, _, note = models.build_model("timm:regnetx_002", weights, 2, seed=0)
    assert weights.source == "timm:regnetx_002.pycls_in1k"
    got = model.state_dict()
    assert all(torch.equal(got[n], v) for n, v in state.items() if not n.startswith("head.fc")), note


@installed
def test_timm_s_own_names_are_told():
    with pytest.raises(runs.RunError, match=r"unknown --arch timm:resnet18.nope; timm's tags for resnet18 are .*"):
        models.timm_config("timm:resnet18.nope")
    with pytest.raises(runs.RunError, match="unknown --arch timm:resnet81; timm has .*resnet"):
        models.timm_config("timm:resnet81")
    with pytest.raises(runs.RunError, match="its head is not one Linear layer, the last"):
        models.new_model("timm:deit_tiny_distilled_patch16_224")
    said = re.escape("Its own size is 224 px.")
    with pytest.raises(runs.RunError, match=said):
        models.check_size("timm:vit_tiny_patch16_224", 64)
