"""Grad-CAM: a map is the formula's, and the panel shows it."""

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.nn import functional
from toys import SMALL, Tiny, as_is, predictions, write_run

import gradcam
import models
import runs
import strategies


def two_channels(*, weight):
    """A0 = red, A1 = green, then the mean over the picture and a linear layer."""
    layers = nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)
    model = nn.Sequential(*layers)
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
        self.conv, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.LayerNorm(6)
        self.classifier = nn.Linear(6, 3)

    def forward(self, x):
        return self.classifier(self.norm(self.conv(x).permute(0, 2, 3, 1)).mean(dim=(1, 2)))


class Attention(nn.Module):
    """As timm's: its norm of the queries gives heads x tokens x width, which is no map."""

    def __init__(self):
        super().__init__()
        self.qkv, self.q_norm = nn.Linear(6, 18), nn.LayerNorm(3)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 3)).permute(2, 0, 3, 1, 4)
        return (self.q_norm(q) @ k.transpose(2, 3)).softmax(dim=3).matmul(v).transpose(1, 2).flatten(2)


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj, self.patch_size = nn.Conv2d(3, 6, 4, stride=4), (4, 4)

    def forward(self, x):
        return self.proj(x).flatten(2).transpose(1, 2)


class TimmViT(nn.Module):
    """Two tokens (class and register) before the patches; the class token goes to the head."""

    def __init__(self):
        super().__init__()
        self.patch_embed, self.num_prefix_tokens = Patches(), 2
        self.tokens = nn.Parameter(torch.randn(1, 2, 6))
        self.blocks = nn.Sequential(nn.ModuleDict({"norm1": nn.LayerNorm(6), "attn": Attention()}))
        self.head = nn.Linear(6, 3)

    def before(self, x):
        x = self.patch_embed(x)
        return torch.cat([self.tokens.expand(len(x), -1, -1), x], dim=1)

    def behind(self, x, normed):
        return self.head((x + self.blocks[0]["attn"](normed))[:, 0])

    def forward(self, x):
        x = self.before(x)
        return self.behind(x, self.blocks[0]["norm1"](x))


def test_a_vit_of_timm_s_is_explained_by_the_patches_of_its_last_norm1():
    torch.manual_seed(2)
    model, x, c = TimmViT(), torch.randn(4, 3, 12, 12), torch.tensor([0, 1, 2, 1])
    tokens = model.before(x).detach()
    normed = model.blocks[0]["norm1"](tokens).detach().requires_grad_()
    logits = model.behind(tokens, normed)
    (gradient,) = torch.autograd.grad(logits[torch.arange(4), c].sum(), normed)
    weights = gradient[:, 2:].mean(dim=1)  # over the nine patches
    expected = torch.einsum("npk,nk->np", normed[:, 2:].detach(), weights).view(4, 1, 3, 3).relu()
    expected = functional.interpolate(expected, (12, 12), mode="bilinear", align_corners=False)[:, 0]
    maps, name = gradcam.gradcam(model, x, c)
    assert name == "blocks.0.norm1"
    torch.testing.assert_close(maps, scaled(expected), atol=1e-5, rtol=1e-5)
    assert maps.amax() == 1


class PooledThenConvolved(nn.Module):
    """As timm's MobileNetV3: a convolution behind the pooling over the whole picture."""

    def __init__(self):
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 6, 3, padding=1), nn.AdaptiveAvgPool2d(1)
        self.conv_head, self.classifier = nn.Conv2d(6, 5, 1, bias=False), nn.Linear(5, 3, bias=False)

    def forward(self, x):
        return self.classifier(self.conv_head(self.pool(self.conv(x))).flatten(1))


def test_a_convolution_behind_the_pooling_over_the_whole_picture_is_no_map():
    torch.manual_seed(3)
    model, x, c = PooledThenConvolved(), torch.randn(3, 3, 8, 8), torch.tensor([0, 1, 2])
    weights = (model.classifier.weight @ model.conv_head.weight.flatten(1))[c]  # both are linear
    expected = scaled(torch.einsum("nkhw,nk->nhw", model.conv(x), weights))
    maps, name = gradcam.gradcam(model, x, c)
    assert name == "conv"
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)


class OwnNorm(nn.LayerNorm):
    """As timm's: a class of its own."""


def test_channels_last_are_told_by_their_shape(monkeypatch):
    torch.manual_seed(0)
    model, x, c = ChannelsLast(), torch.randn(4, 3, 8, 10), torch.tensor([0, 1, 2, 1])
    expected, _ = gradcam.gradcam(model, x, c)
    model.norm.__class__ = OwnNorm
    torch.testing.assert_close(gradcam.gradcam(model, x, c)[0], expected)


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
    expected = scaled(torch.einsum("nkhw,nk->nhw", last, weights))
    torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-5)


def resnet():
    return torchvision.models.resnet18(num_classes=3), lambda m, seen: seen["layer4"], 64, "layer4"


def densenet():
    model = torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=3)
    return model, lambda m, seen: seen["features.norm5"].relu(), 64, "features.norm5"


def swin():
    sizes = {"patch_size": [4, 4], "embed_dim": 8, "window_size": [2, 2]}
    depth = {"depths": [1, 1], "num_heads": [1, 1]}
    model = torchvision.models.SwinTransformer(**sizes, **depth, num_classes=3)
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
    for build in (torchvision.models.mobilenet_v3_small, torchvision.models.squeezenet1_1):
        assert gradcam.gradcam(build(num_classes=3), torch.randn(1, 3, 64, 64))[1] == "features.12"


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
    around = [m[r - 1 : r + 5, c - 1 : c + 5].sum() / m.sum() for m, (r, c) in zip(maps, at, strict=True)]
    assert min(around) > 2 * 36 / 256  # evenly spread, the 36 of 256 places at the blob would have 0.14


# ---- panel ----


def test_the_panel_has_a_row_an_image_and_a_column_a_run(tiny, tmp_path):
    one = tiny(tmp_path / "one", ["red", "green", "blue"])
    swapped = as_is(Tiny(3))
    swapped.fc.weight.data = swapped.fc.weight.data[[1, 0, 2]]  # calls red green and green red
    two = write_run(tmp_path / "two", swapped, classes=["red", "green", "blue"])
    pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    pixels[0, 0], pixels[1, 2] = 255, 255
    long = "图像 — a name that goes on and on " * 9 + "\nwith a second line"
    out = tmp_path / "new" / "p.png"
    headed = {"FT": one, "Auto-RGN " * 30: two}
    assert gradcam.gradcam_panel(headed, pixels, ["red", "blue"], ["a", long], out) == []
    panel = np.asarray(Image.open(out)).astype(int)
    side, line, gap = gradcam.SIDE, gradcam.LINE, gradcam.GAP
    top, row = 2 * line + 3 * gap, side + 2 * line + gap
    assert panel.shape == (top + 2 * row + line + gap, gap + 3 * (side + gap), 3)
    for j in range(4):  # text stays within its column
        assert (panel[: top + 2 * row - gap, j * (side + gap) : j * (side + gap) + gap] == 255).all()
    assert (panel[top : top + side, gap : gap + side] == [255, 0, 0]).all()  # the picture itself

    def ink(i, j):  # where the mark below a picture is, whatever its colour
        x, y = gap + j * (side + gap), top + i * row + side
        return (panel[y : y + 16, x : x + 15].min(axis=2) < 128).tolist()

    assert ink(0, 1) == ink(1, 1) == ink(1, 2) != ink(0, 2)  # three right, one wrong
    assert np.any(ink(0, 1)) and np.any(ink(0, 2))


def test_images_are_drawn_class_by_class():
    """Six of a, three of b, one of c: one of each, then a second, then a third."""
    test = np.array([3, 5, 6, 7, 8, 9, 10, 11, 12, 13])
    labels = dict(zip(test.tolist(), "aaabaabcba", strict=True)) | {14: "b"}  # 14 is not in the test
    chosen = gradcam.choose_images(test, labels, 6, seed=0)
    assert [labels[i] for i in chosen.tolist()] == list("abcaba") and len(set(chosen.tolist())) == 6
    assert np.array_equal(chosen[:4], gradcam.choose_images(test, labels, 4, seed=0))
    others = [gradcam.choose_images(test, labels, 6, seed=seed).tolist() for seed in range(1, 9)]
    assert any(other != chosen.tolist() for other in others)
    assert sorted(gradcam.choose_images(test, labels, 99, seed=0).tolist()) == test.tolist()


def test_the_panel_of_a_dataset_shows_the_pixels_of_the_images_that_were_drawn(tiny, tmp_path):
    """Pixels in another order than the images, as after --skip-bad."""
    run = tiny(tmp_path / "r", ["red", "green", "blue"])
    colours = torch.eye(3, dtype=torch.uint8) * 255
    pixels = colours[[2, 1, 0, 0]][:, :, None, None].expand(-1, -1, 8, 8)
    lookup, labels = np.array([3, 1, 0, 2]), {0: "red", 1: "green", 2: "blue", 3: "red"}
    images = {"labels": labels, "paths": list("rgbs"), "pixels": pixels, "lookup": lookup}
    out = tmp_path / "p.png"
    drawn = gradcam.draw({"FT": run}, **images, test=np.arange(3), count=9, seed=0, out=out)
    assert drawn == (3, [])
    panel = np.asarray(Image.open(out)).astype(int)
    shown = [panel[gradcam.top_of(i), gradcam.GAP].tolist() for i in range(3)]
    assert shown == [[0, 0, 255], [0, 255, 0], [255, 0, 0]]  # by name of the class: blue, green, red


def test_heat_is_laid_over_by_its_strength():
    picture = torch.full((1, 8, 8), 100, dtype=torch.uint8)
    assert (np.asarray(gradcam.overlaid(picture, torch.zeros(8, 8))) == 100).all()
    hot = np.asarray(gradcam.overlaid(picture, torch.ones(8, 8)))
    expected = [0.35 * 100 + 0.65 * c for c in (252, 255, 164)]
    assert np.abs(hot - np.array(expected)).max() <= 0.51
    colours = gradcam.heat_colours(np.array([0, 0.125, 0.5]))
    np.testing.assert_allclose(colours, [(0, 0, 4), (43.5, 8, 57), (188, 55, 84)])


def test_a_run_without_a_map_and_a_label_at_its_threshold(tmp_path):
    torch.manual_seed(0)
    model = models.new_model("shufflenet_v2_x0_5")
    strategies.replace_head(model, 2)
    about = {"arch": "shufflenet_v2_x0_5", "img_size": 32, "task": "multilabel", "thresholds": [0.0, 1.0]}
    run = write_run(tmp_path / "r", model, classes=["a", "b"], **about)
    zeros = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    layer, found = gradcam.explained(run, zeros, ["a", "a|b"], "cpu")
    assert "conv5 has one position" in layer
    assert [(e.heat, e.predicted, e.right) for e in found] == [(None, "a", True), (None, "a", False)]
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


def test_gradcam_shows_the_same_images_for_every_strategy(folder, tmp_path, run):
    small = [*SMALL, *"--epochs 1 --strategy ft lp --img-size 64".split()]
    base = ["--data", folder, *small, "--output-dir", tmp_path]
    code, out, err = run(*base, "--gradcam", "3")
    assert code == 0 and "Grad-CAM of 3 test images" in out, err
    panel = next((tmp_path / "figures").glob("gradcam-*.png"))
    with Image.open(panel) as image:
        width, height = image.size
    assert height > 3 * 128 and width > 3 * 128  # three images, a column for them and one a strategy
    assert "Grad-CAM" in (tmp_path / "report.html").read_text()
    rows = {r["image"] for r in predictions(next(tmp_path.glob("*/*/ft/seed0-fold0"))) if r["split"] == "test"}
    again = run(*base, "--gradcam", "3")[1]  # nothing is trained anew
    assert again.count("done before") == 2 and len(rows) >= 3
