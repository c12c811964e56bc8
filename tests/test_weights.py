"""Files of weights as people have them: docs/checkpoints.md's table, each row made in miniature; no code is run."""

import argparse
import collections
import json
import os
import pickle
import re
import shlex
import struct
import subprocess
import sys
import warnings
import zipfile

import numpy as np
import pytest
import torch
from conftest import ROOT
from toys import ARCH, half_trained

import models
import runs
import weights

# ---- forms that are read: (file, state) -> what is saved there ----


def save(file, content, **how):
    torch.save(content, file, **how)


def below(prefix, state):
    return {f"{prefix}.{name}": value for name, value in state.items()}


def body(state):
    """Without the head of ShuffleNet."""
    return {name: value for name, value in state.items() if not name.startswith("fc.")}


def moved(state):
    """As a running mean is: other values under the same names."""
    return {name: value + 1 for name, value in state.items()}


def numbered(state):
    """nn.Sequential(*model.children()) of ShuffleNet: conv1, maxpool (no tensors), stage2, 3, 4, conv5, fc."""
    order = ["conv1", "maxpool", "stage2", "stage3", "stage4", "conv5", "fc"]
    return {f"{order.index(n.partition('.')[0])}.{n.partition('.')[2]}": value for n, value in state.items()}


def training(state):
    """A training script's: optimizer by number, plain settings."""
    net = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    args = {"lr": 0.1, "name": "x"}
    return {"epoch": 3, "model_state_dict": state, "optimizer_state_dict": optimizer.state_dict(), "args": args}


def lightning(state):
    return {"state_dict": below("model", state), "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "loops": [1]}


def averaged(state):
    return {"n_averaged": torch.tensor(3), **below("module", state)}


def finished_run(file, state):
    run = runs.RunFolder(file.parent / "run")
    meta = {"arch": ARCH, "stage": "ft", "mean": [0.5] * 3, "std": [0.25] * 3}
    run.save("best.pt", {"model": state, "meta": meta})
    run.write_json("config.json", {})
    run.write_json("metrics.json", {})
    return run.best


def bfloat(state):
    return {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}


NAMES = {"F32": torch.float32, "I64": torch.int64, "BF16": torch.bfloat16, "F16": torch.float16}


def safetensors(file, state, **more):
    """By the format's description: 8 bytes of length, JSON, raw bytes."""
    header, raw = {"__metadata__": {"format": "pt"}}, b""
    for name, value in state.items():
        data = value.contiguous().view(torch.uint8).numpy().tobytes() if value.ndim else value.numpy().tobytes()
        (kind,) = [kind for kind, dtype in NAMES.items() if dtype == value.dtype]
        header[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(raw), len(raw) + len(data)]}
        raw += data
    text = json.dumps(header | more).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw)


GREY = "conv1.0.weight"

READ = {
    "a state dict": lambda f, s: save(f, s),
    "a state dict saved before PyTorch 1.6": lambda f, s: save(f, s, _use_new_zipfile_serialization=False),
    "`best.pt` of a finished run of this project": finished_run,
    "a state dict in a dict: `state_dict`, `model`, `model_state_dict`, `net`, `state_dict_ema`, `teacher`, any name": [
        lambda f, s, name=name: save(f, {"epoch": 3, name: s})
        for name in "state_dict model model_state_dict net state_dict_ema teacher my_own".split()
    ],
    "a dict in dicts": lambda f, s: save(f, {"state": {"nets": {"encoder": s}}}),
    "a training script's checkpoint, with optimizer and settings": lambda f, s: save(f, training(s)),
    "a checkpoint of Lightning": lambda f, s: save(f, lightning(s)),
    "a network and its running mean: `model` and `model_ema`": lambda f, s: save(
        f, {"model_ema": moved(s), "model": s}
    ),
    "a query encoder and its momentum copy, as MoCo has them": lambda f, s: save(
        f, {"state_dict": below("module.encoder_k", moved(s)) | below("module.encoder_q", s)}
    ),
    "names with a prefix: `encoder.`, `backbone.`, `model.`, `net.0.`, any": [
        lambda f, s, name=name: save(f, below(name, s)) for name in "encoder backbone model net.0".split()
    ],
    "DataParallel, DDP: `module.`": lambda f, s: save(f, below("module", s)),
    "torch.compile: `_orig_mod.`": lambda f, s: save(f, below("_orig_mod", s)),
    "DataParallel of a part: `features.module.`": lambda f, s: save(
        f, {n.replace("features.", "features.module."): v for n, v in s.items()}
    ),
    "AveragedModel of torch.optim.swa_utils": lambda f, s: save(f, averaged(s)),
    "`nn.Sequential(*model.children())`: children by number": lambda f, s: save(f, numbered(s)),
    "the same without the head and with a prefix: `backbone.0.`": lambda f, s: save(
        f, below("backbone", numbered(body(s)))
    ),
    "the state dict of `model.features` alone": lambda f, s: save(
        f, {n.removeprefix("features."): v for n, v in s.items() if n.startswith("features.")}
    ),
    "a backbone without a head": lambda f, s: save(f, body(s)),
    "heads of its own beside the backbone": lambda f, s: save(f, body(s) | {"projector.weight": torch.ones(2, 2)}),
    "half precision, bfloat16": lambda f, s: save(f, bfloat(s)),
    "double precision": lambda f, s: save(f, {n: v.double() if v.is_floating_point() else v for n, v in s.items()}),
    "safetensors": safetensors,
    "safetensors in bfloat16": lambda f, s: safetensors(f, bfloat(s)),
    "a first convolution of one channel": lambda f, s: save(f, s | {GREY: s[GREY].sum(1, keepdim=True)}),
    "a meta that is no dict": lambda f, s: save(f, {"state_dict": s, "meta": "my net"}),
    "mean and std of one channel in its meta": lambda f, s: save(
        f, {"state_dict": s, "meta": {"mean": [0.5], "std": 0.25}}
    ),
}

# ---- forms that are refused ----


class Config:
    """A class of a project's own."""

    lr = 0.1


def scripted(file, state):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(net_of(state).eval(), torch.rand(1, 3, 32, 32)), str(file))


def exported(file, state):
    torch.export.save(torch.export.export(net_of(state).eval(), (torch.rand(2, 3, 32, 32),)), file.with_suffix(".pt2"))
    return file.with_suffix(".pt2")


def net_of(state):
    model = models.new_model(ARCH)
    model.load_state_dict(state)
    return model


def as_pickle(file, content):
    file.write_bytes(pickle.dumps(content, protocol=4))


def archive_of(file, *names):
    with zipfile.ZipFile(file, "w") as out:
        for name in names:
            out.writestr(name, "x")


def cut_short(file, state):
    save(file, state)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_safetensors(file, state):
    safetensors(file, state)
    file.write_bytes(file.read_bytes()[:-100])


def fifo(file, state):
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    os.mkfifo(file)


def half_a_run(file, state):
    return half_trained(file.parent / "run").best


def resumable(file, state):
    save(file, {"model": state, "plan": {}, "optimizer": {}})


def with_meta(**meta):
    return lambda f, s: save(f, {"state_dict": s, "meta": meta})


def changed(name, change):
    return lambda f, s: save(f, s | {name: change(s[name])})


PAGE = b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 102502400\n"
NORM = "conv1.1.weight"
NUMPY = np.float64(0.5)

REFUSED = {
    "a pickled model, `torch.save(model)`": lambda f, s: save(f, net_of(s)),
    "a pickled model in DataParallel": lambda f, s: save(f, torch.nn.DataParallel(net_of(s))),
    "a pickled model in a dict": lambda f, s: save(f, {"epoch": 1, "model": net_of(s)}),
    "numpy numbers beside the tensors": lambda f, s: save(f, {"state_dict": s, "best_acc": NUMPY}),
    "the same, saved before PyTorch 1.6": lambda f, s: save(
        f, {"state_dict": s, "best_acc": NUMPY}, _use_new_zipfile_serialization=False
    ),
    "an argparse.Namespace beside the tensors": lambda f, s: save(
        f, {"model": s, "args": argparse.Namespace(lr=0.1), "optimizer": {"state": {0: 1}}}
    ),
    "an object of a project's own class beside the tensors": lambda f, s: save(f, {"model": s, "config": Config()}),
    "`pickle.dump` of a state dict": as_pickle,
    "TorchScript": scripted,
    "a program of torch.export, as `--export` writes it": exported,
    "a Git LFS pointer": lambda f, s: f.write_bytes(POINTER),
    "the same, named .safetensors": lambda f, s: renamed(f, ".safetensors", POINTER),
    "a web page": lambda f, s: f.write_bytes(PAGE),
    "text or JSON": lambda f, s: f.write_bytes(b'{"error": "Repository not found"}'),
    "an index of safetensors in parts": lambda f, s: f.write_bytes(b'{"metadata": {}, "weight_map": {"a": "b"}}'),
    "safetensors that is cut short": cut_safetensors,
    "a file of torch.save that is cut short": cut_short,
    "an empty file": lambda f, s: f.write_bytes(b""),
    "HDF5, as of Keras": lambda f, s: f.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)),
    "NumPy's .npy": lambda f, s: np.save(open(f, "wb"), np.ones(3)),  # noqa: SIM115
    "NumPy's .npz": lambda f, s: np.savez(open(f, "wb"), a=np.ones(3)),  # noqa: SIM115
    "ONNX": lambda f, s: renamed(f, ".onnx", b"\x08\x07\x12\x07pytorch\xff"),
    "gzip, bzip2, xz": [lambda f, s, head=head: f.write_bytes(head + bytes(99)) for head in (b"\x1f\x8b", b"BZh9")],
    "a ZIP archive of other files": lambda f, s: archive_of(f, "weights/best.pth", "README.md"),
    "a folder": lambda f, s: f.mkdir(),
    "a pipe or a device": fifo,
    "no such file": lambda f, s: None,
    "a list, a tensor or a number": [
        lambda f, s, content=content: save(f, content) for content in ([torch.ones(2)], torch.ones(2), 3)
    ],
    "a dict without tensors": lambda f, s: save(f, {"epoch": 3, "state": {0: torch.ones(2)}}),
    "two networks, as `student` and `teacher`": lambda f, s: save(f, {"student": s, "teacher": moved(s)}),
    "two tensors of one name without their wrappers": lambda f, s: save(f, s | below("module", s)),
    "another architecture, by its names and shapes": lambda f, s: save(
        f, models.new_model("squeezenet1_1").state_dict()
    ),
    "another architecture, by what it says": lambda f, s: save(f, {"arch": "resnet-50", "state_dict": s}),
    "a part of the backbone": lambda f, s: save(f, dict(list(s.items())[40:])),
    "the best.pt of a run that is not finished": half_a_run,
    "the last.pt of a run": resumable,
    "mean and std of four channels in its meta": with_meta(mean=[0.5] * 4, std=[0.5] * 4),
    "mean and std of pixels from 0 to 255": with_meta(mean=[120.0] * 3, std=[60.0] * 3),
    "mean and std that are no numbers": with_meta(mean="imagenet", std=None),
    "a meta whose arch is no name": with_meta(arch=["resnet18"]),
    "a first convolution of four channels": changed(GREY, lambda t: torch.cat([t, t[:, :1]], dim=1)),
    "sparse tensors": changed(GREY, lambda t: t.to_sparse()),
    "whole numbers (int8)": changed(GREY, lambda t: t.to(torch.int8)),
    "complex numbers": changed(GREY, lambda t: t.to(torch.complex64)),
    "tensors without values (meta device)": changed(GREY, lambda t: t.to("meta")),
    "values that are not finite": changed(NORM, lambda t: t * float("nan")),
    "values beyond float32": changed(NORM, lambda t: t.double() * 1e300),
}


def renamed(file, suffix, content):
    file.with_suffix(suffix).write_bytes(content)
    return file.with_suffix(suffix)


# ---- the table ----

OTHERS = {  # the form needs an architecture of its own
    "DataParallel of a part: `features.module.`": "squeezenet1_1",
    "the state dict of `model.features` alone": "squeezenet1_1",
}


def rows():
    """heading -> {form: what is said of it} of docs/checkpoints.md."""
    tables, heading = {}, None
    for line in (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("| ") and not line.startswith(("| Form |", "|--")):
            form, said = line.strip("| ").split(" | ", 1)
            assert form not in tables.setdefault(heading, {}), f"{form} stands there twice"
            tables[heading][form] = said
    return tables


TABLE = rows()


def cases(makers):
    for form, made in makers.items():
        for number, make in enumerate(made if isinstance(made, list) else [made]):
            yield pytest.param(form, make, id=f"{form}-{number}" if number else form)


@pytest.fixture(scope="module")
def states():
    torch.manual_seed(0)
    return {arch: dict(models.new_model(arch).state_dict()) for arch in (ARCH, "squeezenet1_1")}


def agrees(said, documented):
    """Every text in backticks of the table stands in what is said, ... for anything."""
    pieces = re.findall("`([^`]+)`", documented)
    assert pieces, f"{documented} says nothing"
    for piece in pieces:
        assert re.search(re.escape(piece).replace(re.escape("..."), ".*"), said), (piece, said)


def test_every_form_of_the_table_is_made_and_every_one_that_is_made_is_in_it():
    assert set(TABLE["Read"]) == set(READ) and set(TABLE["Refused"]) == set(REFUSED)


@pytest.mark.parametrize(("form", "make"), [*cases(READ)])
def test_a_form_that_is_read_gives_every_tensor_and_says_what_the_table_says(form, make, states, tmp_path):
    arch = OTHERS.get(form, ARCH)
    state, file = states[arch], tmp_path / "w.pth"
    file = make(file, state) or file
    loaded = models.check_weights(models.load_weights(str(file), arch), arch)
    model, _, note = models.build_model(arch, loaded, 3, seed=1)
    head = "classifier.1" if arch == "squeezenet1_1" else "fc"
    wide = {"half precision, bfloat16", "safetensors in bfloat16"}
    for name, value in model.state_dict().items():
        if not name.startswith(head) and "num_batches" not in name:
            expected = state[name].bfloat16().float() if form in wide else state[name]
            if form == "a first convolution of one channel" and name == GREY:
                expected = expected.sum(1, keepdim=True).expand(-1, 3, -1, -1) / 3
            assert torch.equal(value, expected), name
    agrees(note, TABLE["Read"][form])
    in_meta = {"`best.pt` of a finished run of this project", "mean and std of one channel in its meta"}
    assert (loaded.mean, loaded.std) == (
        ((0.5,) * 3, (0.25,) * 3) if form in in_meta else (models.Weights("").mean, models.Weights("").std)
    )
    assert ("those of ImageNet are taken" in note) == (form not in in_meta)


@pytest.mark.parametrize(("form", "make"), [*cases(REFUSED)])
def test_a_form_that_is_refused_says_what_it_is_in_a_line(form, make, states, tmp_path):
    file = tmp_path / "w.pth"
    made = make(file, states[ARCH])
    file = made if isinstance(made, type(file)) else file
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(runs.RunError) as caught:
            models.check_weights(models.load_weights(str(file), ARCH), ARCH)
    said = str(caught.value)
    assert "\n" not in said and str(file) in said
    agrees(said, TABLE["Refused"][form])
    assert ("python -c" in said) == ("re-saves" in TABLE["Refused"][form])
    if "python -c" in said:
        assert "only if you trust where it comes from" in said
        code = shlex.split(said[said.index("python -c") :])[2]  # as a shell takes it apart
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit is deprecated
            exec(code, {})  # noqa: S102  the user's own line, on a file of this test
        loaded = models.load_weights(str(tmp_path / "w-tensors.pth"), ARCH)
        model, _, note = models.build_model(ARCH, models.check_weights(loaded, ARCH), 2, seed=1)
        assert torch.equal(model.stage2[0].branch1[0].weight, states[ARCH]["stage2.0.branch1.0.weight"]), note


def test_the_line_that_re_saves_works_in_a_shell_with_odd_names(states, tmp_path):
    file = tmp_path / 'it\'s a "net" of $HOME.pth'
    save(file, {"state_dict": states[ARCH], "best_acc": NUMPY})
    with pytest.raises(runs.RunError) as caught:
        weights.read_file(file)
    line = str(caught.value).partition(": python -c ")[2]
    done = subprocess.run(f"{shlex.quote(sys.executable)} -c {line}", shell=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    (resaved,) = tmp_path.glob("*-tensors.pth")
    assert torch.equal(weights.read_file(resaved)["state_dict"][GREY], states[ARCH][GREY])


# ---- no code is run ----


class Bomb:
    """Code that runs where it is unpickled."""

    def __init__(self, file):
        self.file = str(file)

    def __reduce__(self):
        return open, (self.file, "w")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("how", ["plain", "old", "new", "root"])
def test_no_code_of_a_file_is_run(protocol, how, tmp_path):
    file, bomb = tmp_path / "w.pth", Bomb(tmp_path / "fired")
    if how == "plain":
        file.write_bytes(pickle.dumps({"state_dict": {}, "b": bomb}, protocol=protocol))
    else:
        content = bomb if how == "root" else {"state_dict": {"a": torch.ones(2)}, "b": bomb}
        save(file, content, pickle_protocol=protocol, _use_new_zipfile_serialization=how != "old")
    with pytest.raises(runs.RunError):
        weights.read_file(file)
    assert not (tmp_path / "fired").exists()
    pickle.loads(pickle.dumps(bomb)).close()
    assert (tmp_path / "fired").exists()  # it would have


@pytest.mark.parametrize("protocol", [2, 4])
def test_the_names_in_a_pickle_are_read_without_running_it(protocol, tmp_path):
    content = collections.OrderedDict(a=argparse.Namespace(x=1), b=NUMPY, c=argparse.Namespace(), d="io open")
    with open(tmp_path / "x", "wb") as out:
        pickle.dump(content, out, protocol=protocol)
    with open(tmp_path / "x", "rb") as stream:
        root, names = weights.names_in(stream)
    assert root == "collections.OrderedDict"
    assert {n.replace("numpy.core", "numpy._core") for n in names if "_codecs" not in n} == {
        "collections.OrderedDict",
        "argparse.Namespace",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
    }


# ---- safetensors ----

EACH = {
    "F64": (torch.float64, struct.pack("<2d", 1.5, -2.0), [1.5, -2.0]),
    "F32": (torch.float32, struct.pack("<2f", 1.5, -2.0), [1.5, -2.0]),
    "F16": (torch.float16, struct.pack("<2e", 1.5, -2.0), [1.5, -2.0]),
    "BF16": (torch.bfloat16, bytes([0xC0, 0x3F, 0x00, 0xC0]), [1.5, -2.0]),  # the upper halves of float32's
    "I64": (torch.int64, struct.pack("<2q", 1, -(2**60)), [1, -(2**60)]),
    "I32": (torch.int32, struct.pack("<2i", 1, -70000), [1, -70000]),
    "I16": (torch.int16, struct.pack("<2h", 1, -300), [1, -300]),
    "I8": (torch.int8, struct.pack("<2b", 1, -2), [1, -2]),
    "U64": (torch.uint64, struct.pack("<2Q", 1, 2**60), [1, 2**60]),
    "U32": (torch.uint32, struct.pack("<2I", 1, 2**31), [1, 2**31]),
    "U16": (torch.uint16, struct.pack("<2H", 1, 65535), [1, 65535]),
    "U8": (torch.uint8, bytes([1, 255]), [1, 255]),
    "BOOL": (torch.bool, bytes([1, 0]), [True, False]),
    "C64": (torch.complex64, struct.pack("<4f", 1, 2, 3, -4), [1 + 2j, 3 - 4j]),
    # sign, exponent (bias 7), mantissa of 3 bits: 0 0111 100 = 1.5, 1 1000 000 = -2
    "F8_E4M3": (torch.float8_e4m3fn, bytes([0b00111100, 0b11000000]), [1.5, -2.0]),
    # bias 8 without a negative zero: 0 1000 100 = 1.5, 1 1001 000 = -2
    "F8_E4M3FNUZ": (torch.float8_e4m3fnuz, bytes([0b01000100, 0b11001000]), [1.5, -2.0]),
    # exponent of 5 bits (bias 15), mantissa of 2: 0 01111 10 = 1.5, 1 10000 00 = -2
    "F8_E5M2": (torch.float8_e5m2, bytes([0b00111110, 0b11000000]), [1.5, -2.0]),
    "F8_E5M2FNUZ": (torch.float8_e5m2fnuz, bytes([0b01000010, 0b11000100]), [1.5, -2.0]),  # bias 16
    "F8_E8M0": (torch.float8_e8m0fnu, bytes([127, 129]), [1.0, 4.0]),  # 2 ** (byte - 127)
}


def written(file, header, raw=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + raw)
    return file


@pytest.mark.parametrize("kind", EACH)
def test_safetensors_of_every_dtype(kind, tmp_path):
    """A byte lies before it, so that no tensor is aligned."""
    dtype, raw, values = EACH[kind]
    places = {"pad": ("U8", [1], 0, 1), "x": (kind, [2, 1], 1, 1 + len(raw))}
    header = {n: {"dtype": d, "shape": s, "data_offsets": [a, b]} for n, (d, s, a, b) in places.items()}
    found = weights.read_file(written(tmp_path / "x.safetensors", header, b"\x07" + raw))
    assert found["x"].dtype == dtype and found["x"].shape == (2, 1) and found["pad"].tolist() == [7]
    wide = found["x"].float() if kind.startswith("F8") else found["x"]
    assert wide.flatten().tolist() == values
    assert set(EACH) == set(weights.DTYPES)


def test_safetensors_as_their_own_library_writes_them(tmp_path):
    library = pytest.importorskip("safetensors.torch")
    torch.manual_seed(0)
    kinds = (torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8)
    tensors = {str(kind): (torch.randn(3, 5) * 9).to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(3.5), "none": torch.empty(0, 4)}
    library.save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = weights.read_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[n], v) and found[n].dtype == v.dtype for n, v in tensors.items())
    (tmp_path / "x.safetensors").rename(tmp_path / "x.bin")  # by its bytes, whatever its name
    assert torch.equal(weights.read_file(tmp_path / "x.bin")["scalar"], tensors["scalar"])


def one(**change):
    return {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (one(data_offsets=[0, 12]), "lies outside of the file"),
        (one(data_offsets=[4, 12]), "lies outside of the file"),
        (one(data_offsets=[8, 0]), "lies outside of the file"),
        (one(data_offsets=[-8, 0]), "data_offsets are no whole numbers"),
        (one(data_offsets=[0.0, 8.0]), "data_offsets are no whole numbers"),
        (one(data_offsets=[False, True]), "data_offsets are no whole numbers"),
        (one(data_offsets=[0]), "lies outside of the file"),
        (one(data_offsets=None), "data_offsets are no whole numbers"),
        (one(shape=[3]), r"8 bytes are not those of \[3\] in F32"),
        (one(shape=[-2]), "shape are no whole numbers"),
        (one(shape=[2**62, 2**62]), "8 bytes are not those of"),
        (one(shape="2"), "shape are no whole numbers"),
        (one(shape=[0, 2**62, 2**62], data_offsets=[0, 0]), "is damaged or no safetensors"),
        (one(dtype="F4"), "has dtype 'F4', which PyTorch has not"),
        (one(dtype="Tensor"), "has dtype 'Tensor', which PyTorch has not"),
        (one(dtype=["F32"]), "which PyTorch has not"),
        ({"x": 3}, "has no dtype, shape and data_offsets"),
        ([1], "no JSON object"),
        (one() | {"y": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, "'x' and 'y' share bytes"),
        (b'{"x": {}, "x": {}}', "a name stands twice"),
        (b'{"x": ', "is damaged or no safetensors"),
        (b'{"x": "\xff"}', "is damaged or no safetensors"),
        (b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "nested too deep"),
    ],
)
def test_a_header_of_safetensors_that_cannot_be_is_refused(header, message, tmp_path):
    file = written(tmp_path / "x.safetensors", header, bytes(8))
    with pytest.raises(runs.RunError, match=message) as caught:
        weights.read_file(file)
    assert "\n" not in str(caught.value) and str(file) in str(caught.value)


@pytest.mark.parametrize("length", [2**63, 2**40, 9])
def test_a_length_of_safetensors_beyond_the_file_is_refused(length, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + b"{}")
    with pytest.raises(runs.RunError, match="its header should have"):
        weights.read_file(tmp_path / "x.safetensors")


# ---- damaged at random ----


def test_damaged_files_end_in_a_line(tmp_path):
    """600 files with bytes changed, cut or put in: each is read or refused, never a traceback."""
    rng = np.random.default_rng(0)
    whole = []
    for number, how in enumerate(({}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4})):
        save(tmp_path / f"{number}", {"model": {"a": torch.ones(3)}, "meta": {"x": [1, "y"]}, "n": NUMPY}, **how)
        whole.append((tmp_path / f"{number}").read_bytes())
    safetensors(tmp_path / "s", {"a": torch.ones(3), "b": torch.ones(2)})
    whole.append((tmp_path / "s").read_bytes())
    file = tmp_path / "x"
    outcomes = collections.Counter()
    for i in range(600):
        damaged = bytearray(whole[i % len(whole)])
        for _ in range(rng.integers(1, 5)):
            place = int(rng.integers(len(damaged)))
            damaged[place : place + int(rng.integers(3))] = rng.bytes(int(rng.integers(3)))
        file.write_bytes(damaged[: len(damaged) if i % 3 else int(rng.integers(len(damaged)))])
        try:
            weights.tensors_of(weights.read_file(file))
            outcomes["read"] += 1
        except runs.RunError as error:
            assert "\n" not in str(error)
            outcomes["refused"] += 1
    assert outcomes["read"] > 5 and outcomes["refused"] > 300
