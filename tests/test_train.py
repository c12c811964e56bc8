"""The training loop's promises, one by one: order, steps, schedule, criterion, optimizer, what a restart
keeps."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from toys import CPU, Toy, criterion_of, judge_of, read, toy_data, toy_training

import prepare
import runs
import strategies
import train


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_an_interrupted_run_ends_bit_for_bit_like_one_that_was_not(tmp_path, strategy, stop_after):
    whole, _, one = toy_training(tmp_path / "whole", strategy)
    with pytest.raises(KeyboardInterrupt):
        toy_training(tmp_path / "broken", strategy, stop_after=stop_after)
    again, _, two = toy_training(tmp_path / "broken", strategy)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    columns = ("epoch", "stage", "train_loss", "val_loss", "lr_min", "lr_max")
    logs = [[[r[c] for c in columns] for r in run.load("last.pt")["log"]] for run in (one, two)]
    assert logs[0] == logs[1] and len(logs[0]) == 4
    assert one.load("last.pt")["ratios"] == two.load("last.pt")["ratios"]


TIMED = {"seconds", "images_per_second", "peak_memory_bytes"}


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


class Kill(BaseException):
    """What SIGKILL is in a test: nothing after it runs, but for what Python itself does."""


def saves_of(tmp_path, strategy, **recipe):
    """Every file that a training with --save-every 0 writes, in order, by the writer itself."""
    written = []
    with pytest.MonkeyPatch.context() as patch:
        real = runs.write_atomically
        patch.setattr(
            runs, "write_atomically", lambda file, *more, **how: [written.append(file.name), real(file, *more, **how)]
        )
        toy_training(tmp_path, strategy, saving=train.Saving(every=0.0), **recipe)
    return written


def same_run(one, two):
    """Whether two run folders hold the same, bit for bit, but for what was timed."""
    for name in ("log.csv", "ratios.csv"):
        assert one.has(name) == two.has(name)
        assert untimed(read_or_none(one.file(name))) == untimed(read_or_none(two.file(name))), name
    for name in ("best.pt", "last.pt"):
        a, b = one.load(name), two.load(name)
        assert a.keys() == b.keys()
        for key, tensor in a["model"].items():
            assert torch.equal(tensor, b["model"][key]), (name, key)
    assert one.load("best.pt")["meta"] == two.load("best.pt")["meta"]


def read_or_none(file):
    return read(file) if file.is_file() else []


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
def test_a_kill_at_any_writing_loses_nothing(tmp_path, strategy):
    """Three epochs of three steps, saved after every step: killed before, and after, each file that it writes."""
    _, _, whole = toy_training(tmp_path / "whole", strategy, epochs=3)
    writings = len(saves_of(tmp_path / "count", strategy, epochs=3))
    assert writings > 3 * 3
    for kill in range(0, 2 * writings, 3 if strategy != "autorgn" else 1):
        folder, seen = tmp_path / str(kill), iter(range(2 * writings))

        def write(file, *more, seen=seen, kill=kill, real=runs.write_atomically, **how):
            if next(seen) == kill:
                raise Kill
            real(file, *more, **how)
            if next(seen) == kill:
                raise Kill

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Kill):
            patch.setattr(runs, "write_atomically", write)
            toy_training(folder, strategy, epochs=3, saving=train.Saving(every=0.0))
        toy_training(folder, strategy, epochs=3)
        same_run(whole, runs.RunFolder(folder))


@pytest.mark.parametrize("strategy", strategies.STRATEGIES)
def test_stopped_at_any_step_or_validation_batch_it_saves_and_goes_on_bit_for_bit(tmp_path, strategy):
    """stop() is asked after each step and validation batch and at the end of an epoch. With dropout, momentum,
    patience's count and Auto-RGN's open window."""
    recipe = {"epochs": 3, "opt": "sgd", "augment": "strong"}
    _, _, whole = toy_training(tmp_path / "whole", strategy, **recipe)
    moments = set()
    for when in range(100):
        folder, asked = tmp_path / str(when), iter(range(100))
        saving = train.Saving(every=1e9, stop=lambda asked=asked, when=when: next(asked) == when)
        try:
            toy_training(folder, strategy, saving=saving, **recipe)
            break  # there were not so many steps
        except train.Stopped:
            state = runs.RunFolder(folder).load_state()
            moments.add((state["epoch"], state["part"]["steps"] if state["part"] else 0))
        toy_training(folder, strategy, **recipe)
        same_run(whole, runs.RunFolder(folder))
    every_step = {(epoch, steps) for epoch in range(3) for steps in (1, 2, 3)} | {(epoch, 0) for epoch in (1, 2, 3)}
    assert moments - {(0, 0)} == every_step  # (0, 0): while the head's features are taken, before the first


@pytest.mark.parametrize("source", ["backward", "probe"])
@pytest.mark.parametrize("every", [0, 2])
def test_auto_rgn_s_window_of_steps_survives_a_stop_within_it(tmp_path, source, every):
    hyper = strategies.Hyperparameters(rgn_source=source, rgn_every=every, rgn_batches=2, rgn_reset=every == 2)
    data = toy_data()

    def go(folder, stop=lambda: False):
        torch.manual_seed(0)
        model = Toy(dropout=0.5)
        plan = strategies.make_plan("autorgn", model, epochs=3, lr=1e-2, hyper=hyper)
        how = {"metric": "balanced_accuracy", "judge": judge_of(data), "saving": train.Saving(1e9, stop)}
        train.run(model, plan, data, runs.RunFolder(folder), train.Recipe(epochs=3, batch_size=8, **CPU), **how)

    go(tmp_path / "whole")
    for when in (0, 1, 5, 6, 11):
        asked = iter(range(100))
        with pytest.raises(train.Stopped):
            go(tmp_path / str(when), lambda asked=asked, when=when: next(asked) == when)
        go(tmp_path / str(when))
        same_run(runs.RunFolder(tmp_path / "whole"), runs.RunFolder(tmp_path / str(when)))


def test_how_often_a_state_is_saved_follows_the_clock_that_only_runs_on(tmp_path, monkeypatch):
    """Every step takes 10 s of time.monotonic, and time.time jumps: 12 steps are 120 s, saved at 30, 60, 90
    and 120; the last one again, with nothing left to do."""
    clock = iter(np.arange(0, 1e6, 10.0))
    saved, now = [], [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(train.time, "time", lambda: next(clock) * -1e6)
    real = runs.RunFolder.save_state
    monkeypatch.setattr(runs.RunFolder, "save_state", lambda self, state: [saved.append(now[0]), real(self, state)])
    data = toy_data()
    real_images = data.images

    def images(rows, device, **augmentation):
        now[0] += 10.0 if augmentation else 0.0
        return real_images(rows, device, **augmentation)

    data.images = images
    toy_training(tmp_path, data=data, saving=train.Saving(every=30.0))
    assert saved == [30.0, 60.0, 90.0, 120.0, 120.0]


def test_a_damaged_last_pt_is_named_and_the_one_before_it_taken(tmp_path, capsys):
    _, _, whole = toy_training(tmp_path / "whole", "l2sp")
    damages = {
        "cut": lambda raw: raw[: len(raw) // 2],
        "empty": lambda raw: b"",
        "zeros": lambda raw: raw[:5000] + bytes(2000) + raw[7000:],
        "a bit of a weight": lambda raw: raw.replace(weight, bytes([weight[0] ^ 1]) + weight[1:]),
    }
    for name, damage in damages.items():
        with pytest.raises(KeyboardInterrupt):
            toy_training(tmp_path / name, "l2sp", stop_after=2)
        run = runs.RunFolder(tmp_path / name)
        raw, weight = run.file("last.pt").read_bytes(), run.load("last.pt")["model"]["conv.weight"].numpy().tobytes()
        assert damage(raw) != raw
        run.file("last.pt").write_bytes(damage(raw))
        toy_training(run.path, "l2sp")
        out = capsys.readouterr().out
        assert f"{run.file('last.pt')} is damaged" in out and "going on from previous.pt, 1 epochs" in out
        same_run(whole, run)
    with pytest.raises(KeyboardInterrupt):
        toy_training(tmp_path / "both", "l2sp", stop_after=2)
    for name in ("last.pt", "previous.pt"):
        (tmp_path / "both" / name).write_bytes(b"PK")
    toy_training(tmp_path / "both", "l2sp")
    assert "trained again from the beginning" in capsys.readouterr().out
    same_run(whole, runs.RunFolder(tmp_path / "both"))


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its last.pt has neither a part of an epoch nor the best model, which is in best.pt alone."""
    values = [0.9, 0.1, 0.2, 0.3]

    def go(folder, left, **more):
        return toy_training(folder, "l2sp", judge=lambda rows, scores: left.pop(0), **more)

    _, _, whole = go(tmp_path / "whole", list(values))
    stopped = iter([False] * 9 + [True])
    with pytest.raises(train.Stopped):
        go(tmp_path / "end", list(values), saving=train.Saving(1e9, lambda: next(stopped)))
    state = runs.RunFolder(tmp_path / "end").load_state()
    assert state["epoch"] == 2 and state["part"] is None
    run = runs.RunFolder(tmp_path / "earlier")
    names = "epoch best waited log ratios model optimizer plan scaler".split()
    earlier = {name: state[name] for name in names}
    run.save("best.pt", {"model": state["best_model"], "meta": state["best"]})
    run.save("last.pt", earlier)
    go(run.path, values[2:])
    same_run(whole, run)


def test_a_resumed_run_keeps_its_best_epoch_and_how_long_it_has_waited(tmp_path):
    """0.9, then never better: with a patience of 3 four epochs, wherever it was interrupted."""
    for stop_after in (None, 1, 2, 3):
        values = iter([0.9] + [0.1] * 20)
        judge = lambda rows, scores, values=values: next(values)
        folder = tmp_path / str(stop_after)
        if stop_after:
            with pytest.raises(KeyboardInterrupt):
                toy_training(folder, epochs=8, judge=judge, patience=3, stop_after=stop_after)
        _, _, run = toy_training(folder, epochs=8, judge=judge, patience=3)
        last = run.load("last.pt")
        assert [row["epoch"] for row in last["log"]] == [1, 2, 3, 4], stop_after
        assert run.load("best.pt")["meta"]["epoch"] == last["best"]["epoch"] == 1 and last["best"]["value"] == 0.9


def test_accumulated_batches_equal_one_large_batch(tmp_path):
    """Without BatchNorm and with class weights: the loss is one mean over all the images of the step."""
    results = []
    for batch_size, grad_accum in ((12, 1), (4, 3)):
        model = Toy(norm=False)
        torch.manual_seed(5)
        for p in model.parameters():
            nn.init.normal_(p, std=0.3)
        toy_training(
            tmp_path / str(grad_accum),
            model=model,
            epochs=2,
            batch_size=batch_size,
            grad_accum=grad_accum,
            augment="none",
            class_weights="balanced",
            opt="sgd",
        )
        results.append(torch.cat([p.flatten() for p in model.parameters()]))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-6)


class Recorded(prepare.Data):
    """Data that keeps what it gives: (rows, images, whether for training)."""

    def images(self, rows, device, **augmentation):
        images = super().images(rows, device, **augmentation)
        self.given.append((np.asarray(rows).tolist(), images, "augment" in augmentation))
        return images


def recorded(data):
    data = Recorded(**vars(data))
    data.given = []
    return data


@pytest.mark.parametrize("strategy", ["ft", "autorgn"])
def test_no_two_images_of_a_training_are_augmented_alike(tmp_path, strategy):
    """One picture four times: wherever two of its copies were alike, two draws were. Three seeds, four epochs
    of one step in two parts, so that a part's first image comes round again."""
    seen = []
    for seed in range(3):
        data = recorded(toy_data())
        data.pixels = data.pixels[:1].expand(40, -1, -1, -1).clone()
        data.rows["train"] = np.arange(4)
        recipe = {"batch_size": 2, "grad_accum": 2, "seed": seed, "augment": "light"}
        toy_training(tmp_path / str(seed), strategy, model=Toy(norm=False), data=data, **recipe)
        seen += [image.numpy().tobytes() for _, images, trains in data.given if trains for image in images]
    assert len(seen) == 3 * 4 * 4 and len(set(seen)) == len(seen)


def test_augmentation_and_order_are_the_same_for_every_strategy(tmp_path):
    given = []
    for strategy in strategies.STRATEGIES:
        data = recorded(toy_data())
        toy_training(tmp_path / strategy, strategy, data=data, epochs=2)
        given.append([(rows, images.numpy().tobytes()) for rows, images, trains in data.given if trains])
    assert len(given[0]) == 2 * 3 and all(one == given[0] for one in given)


def test_validation_and_test_images_are_not_augmented(tmp_path):
    data = recorded(toy_data())
    toy_training(tmp_path, data=data, epochs=2, augment="strong")
    plain = (data.pixels.float() / 255 - 0.5) / 0.25
    judged = [(rows, images) for rows, images, trains in data.given if not trains]
    assert len(judged) == 2
    for rows, images in judged:
        torch.testing.assert_close(images, plain[rows].expand(-1, 3, -1, -1))


def test_dropout_differs_between_epochs_and_seeds_and_not_between_strategies(tmp_path):
    """The state of the random stream that dropout draws from, at each of an epoch's three steps."""
    states = {}
    for strategy in ("ft", "l2sp", "autorgn"):
        for seed in (0, 1):
            model, mine = Toy(dropout=0.5), states.setdefault((strategy, seed), [])

            def remember(module, inputs, mine=mine):
                if torch.is_grad_enabled():  # not while it is judged
                    mine.append(torch.get_rng_state().numpy().tobytes())

            model.drop.register_forward_pre_hook(remember)
            toy_training(tmp_path / f"{strategy}{seed}", strategy, model=model, seed=seed)
    for seed in (0, 1):
        assert states["ft", seed] == states["l2sp", seed] == states["autorgn", seed]
    drawn = states["ft", 0] + states["ft", 1]
    assert len(drawn) == 2 * 4 * 3 and len(set(drawn)) == len(drawn)


def one_step(tmp_path, strategy, hyper, **recipe):
    """(w0, weights before, gradient of the loss before, weights after, run) of one step of SGD on all 24
    images, in float64, from weights that are off w0."""
    torch.manual_seed(0)
    model, data = Toy(norm=False).double(), toy_data()
    plan = strategies.make_plan(strategy, model, epochs=1, lr=0.1, opt="sgd", hyper=hyper)
    w0 = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    before = [p.detach().clone() for p in model.parameters()]
    real = data.images
    data.images = lambda *args, **options: real(*args, **options).double()
    rows = data.rows["train"]
    logits = model(data.images(rows, torch.device("cpu")))
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(data.index.labels[rows]))
    gradient = torch.autograd.grad(loss, list(model.parameters()))
    settings = {"batch_size": 24, "opt": "sgd", "augment": "none", "warmup": 0.0, "device": "cpu"}
    recipe = train.Recipe(epochs=1, **(settings | recipe))
    run = runs.RunFolder(tmp_path)
    train.run(model, plan, data, run, recipe, metric="balanced_accuracy", judge=lambda rows, scores: 0.5)
    return w0, before, gradient, [p.detach() for p in model.parameters()], run


def clipped(gradient, most):
    norm = torch.cat([g.flatten() for g in gradient]).norm()
    assert norm > 2 * most  # else there was nothing to clip
    return [g * (most / norm) for g in gradient]


@pytest.mark.parametrize("scale", [1, 1024.0])
@pytest.mark.parametrize("strategy", ["ft", "l1sp", "l2sp"])
def test_what_is_clipped_is_the_gradient_with_its_penalty(tmp_path, monkeypatch, strategy, scale):
    """w - lr * clip(gradient + alpha pull + beta head), the whole norm brought to 0.05: also where the loss
    is scaled, as under fp16."""
    real = torch.amp.GradScaler
    if scale != 1:
        monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: real(device, init_scale=scale))
    hyper = strategies.Hyperparameters(alpha=0.7, beta=0.3, weight_decay=0.0)
    w0, before, gradient, after, _ = one_step(tmp_path, strategy, hyper, clip_grad=0.05)
    away = [w - w_0 for w, w_0 in zip(before[:2], w0[:2], strict=True)]
    pull = [d.sign() for d in away] if strategy == "l1sp" else away
    penalty = [*(0.7 * p for p in pull), *(0.3 * w for w in before[2:])]
    if strategy == "ft":
        penalty = [torch.zeros_like(w) for w in before]
    step = clipped([g + p for g, p in zip(gradient, penalty, strict=True)], 0.05)
    for w, d, found in zip(before, step, after, strict=True):
        torch.testing.assert_close(found, w - 0.1 * d, rtol=1e-5, atol=1e-7)


def test_auto_rgn_measures_before_clipping(tmp_path):
    """rgn_every=1: the norms in ratios.csv are those of the one step's gradient, not of what clipping
    left."""
    hyper = strategies.Hyperparameters(rgn_every=1)
    _, before, gradient, _, run = one_step(tmp_path, "autorgn", hyper, clip_grad=1e-3)
    clipped(gradient, 1e-3)
    found = {row["layer"]: row for row in run.load("last.pt")["ratios"]}
    for layer, pair in (("conv", slice(0, 2)), ("fc", slice(2, 4))):
        for name, tensors in (("grad_norm", gradient[pair]), ("weight_norm", before[pair])):
            norm = math.sqrt(sum(t.square().sum().item() for t in tensors))
            assert found[layer][name] == pytest.approx(norm, rel=1e-5), (layer, name)


class Watched(Toy):
    """Keeps what it was given and in what precision it computed."""

    def __init__(self):
        super().__init__()
        self.seen, self.precision = [], []

    def forward(self, x):
        self.seen.append(x.clone())
        self.precision.append(self.conv(x).dtype)
        return super().forward(x)


@pytest.mark.parametrize("half", ["bf16", "fp16"])
@pytest.mark.parametrize("augment", ["light", "strong"])
def test_mixed_precision_sees_the_same_pixels_in_training_validation_and_probe(tmp_path, half, augment):
    models = {}
    for amp in ("off", half):
        model, data = Watched(), toy_data(size=24)
        hyper = strategies.Hyperparameters(rgn_source="probe", rgn_batches=2)
        plan = strategies.make_plan("autorgn", model, epochs=2, lr=1e-2, hyper=hyper)
        recipe = train.Recipe(epochs=2, batch_size=8, device="cpu", augment=augment, amp=amp)
        judge = judge_of(data)
        train.run(
            model, plan, data, runs.RunFolder(tmp_path / str(amp)), recipe, metric="balanced_accuracy", judge=judge
        )
        models[amp] = model
    plain, mixed, dtype = models["off"], models[half], train.AMP[half]
    an_epoch = [torch.float32] * 2 + [dtype] * (3 + 1)  # the probe is measured in float32; 24 and 8 images
    assert mixed.precision == 2 * an_epoch and plain.precision == 12 * [torch.float32]
    for a, b in zip(plain.seen, mixed.seen, strict=True):
        assert b.dtype == torch.float32 and torch.equal(a, b)


# ---- a step that fp16 skips: GradScaler("cpu") does the arithmetic of the GPU's ----


@pytest.fixture
def empty_is_nan():
    """Memory that nobody filled is nan, and not by chance the zeros of a fresh page."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def steps_by_hand(opt, gradients, lr=0.1, decay=0.01):
    """The weight, 1 at first, after each step, in Python's float64. None: a step that was skipped."""
    w, m, v, n, after = 1.0, 0.0, 0.0, 0, []
    for g in gradients:
        if g is not None:
            n += 1
            g += 0 if opt == "adamw" else decay * w
            if opt == "sgd":
                m = g if n == 1 else 0.9 * m + g
                w -= lr * m
            else:
                w *= 1 - lr * decay if opt == "adamw" else 1
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                w -= lr * (m / (1 - 0.9**n)) / (math.sqrt(v / (1 - 0.999**n)) + 1e-8)
        after.append(w)
    return after


@pytest.mark.parametrize("opt", train.OPTIMIZERS)
@pytest.mark.parametrize("gradients", [[None, 1.0, 3.0], [None, None, -2.0, 0.5], [0.5, None, 3.0], [1.0, -4.0, 2.0]])
def test_a_skipped_step_leaves_no_trace_in_the_optimizer(opt, gradients, empty_is_nan):
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    groups = [{"params": [w], "lr": 0.1, "weight_decay": 0.01} for w in weights]
    optimizer = train.make_optimizer(opt, groups, torch.device("cpu"))
    scaler = torch.amp.GradScaler("cpu")
    for g, expected in zip(gradients, steps_by_hand(opt, gradients), strict=True):
        scaler.scale(sum(w.sum() for w in weights) * (math.inf if g is None else g)).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        for w in weights:
            torch.testing.assert_close(w.detach(), torch.full_like(w, expected), rtol=1e-5, atol=0)


def test_momentum_starts_after_a_restart_too(empty_is_nan):
    """What a block's momentum is when the block opens after last.pt was written, and its first step
    overflows."""
    early, late = (nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [w], "lr": 0.1, "weight_decay": 0.01} for w in (early, late)]
    first, second = (train.make_optimizer("sgd", groups, torch.device("cpu")) for _ in range(2))
    (early.sum() * 2.0).backward()
    first.step()
    second.load_state_dict(first.state_dict())
    scaler = torch.amp.GradScaler("cpu")
    for g in (math.inf, 1.0, 3.0):
        second.zero_grad()
        scaler.scale((early.sum() + late.sum()) * g).backward()
        scaler.step(second)
        scaler.update()
    expected = steps_by_hand("sgd", [2.0, None, 1.0, 3.0])[-1], steps_by_hand("sgd", [None, 1.0, 3.0])[-1]
    assert [w[0].item() for w in (early, late)] == pytest.approx(expected, rel=1e-5)


def overflowing(plan, model, skipped, steps, watch, scale=2.0**16):
    """train_epoch under a GradScaler, without augmentation, in which these steps overflow. watch(step,
    optimizer) is called after each. Returns (data, the rows of each step)."""
    data = toy_data(n=8 * steps + 16)
    recipe = train.Recipe(epochs=1, batch_size=8, **CPU, augment="none", opt="sgd")
    loss, weight = criterion_of(data, data.rows["train"], "none")
    calls = iter(range(steps))
    spoiled = lambda logits, y: loss(logits, y) * (math.inf if next(calls) in skipped else 1.0)
    plan.begin_epoch(0)
    optimizer = train.make_optimizer("sgd", plan.groups, torch.device("cpu"))
    progress = lambda step, steps, rate: watch(step - 1, optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    train.epoch(model, plan, optimizer, scaler, data, recipe, (spoiled, weight), 0, progress)
    return data, train.steps_of(data.rows["train"], 8, 0, 0)


@pytest.mark.parametrize("strategy", ["l1sp", "l2sp"])
@pytest.mark.parametrize("skipped", [{0}, {1}, {0, 1, 3}, set()])
def test_proximal_shrinks_where_a_step_was_taken_and_only_there(strategy, skipped, empty_is_nan):
    """Against the same steps in float64, the skipped ones left out: SGD with momentum by its formula, then
    the proximal operator of alpha on the backbone and of beta on the head."""
    torch.manual_seed(3)
    model, alpha, beta = Toy(norm=False), 0.8, 0.5
    hyper = strategies.Hyperparameters(alpha=alpha, beta=beta, sp_mode="proximal")
    plan = strategies.make_plan(strategy, model, epochs=1, lr=0.2, hyper=hyper)
    copy = Toy(norm=False).double()
    w0 = {name: p.detach().double().clone() for name, p in model.named_parameters()}
    with torch.no_grad():  # away from w0, so that there is something to shrink in every step
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    copy.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    before, after, rates = {n: p.detach().clone() for n, p in model.named_parameters()}, [], []

    def watch(step, optimizer):
        after.append({n: p.detach().clone() for n, p in model.named_parameters()})
        rates.append(float(optimizer.param_groups[0]["lr"]))

    data, batches = overflowing(plan, model, skipped, 4, watch)
    momentum = {name: torch.zeros_like(p) for name, p in copy.named_parameters()}
    for step, (rows, lr) in enumerate(zip(batches, rates, strict=True)):
        if step in skipped:
            assert all(torch.equal(after[step][n], ([before] + after)[step][n]) for n in before)
            continue
        copy.zero_grad()
        x = (data.pixels[rows].double() / 255 - 0.5).expand(-1, 3, -1, -1) / 0.25
        nn.functional.cross_entropy(copy(x), torch.from_numpy(data.index.labels[rows])).backward()
        with torch.no_grad():
            for name, p in copy.named_parameters():
                momentum[name] = 0.9 * momentum[name] + p.grad
                p -= lr * momentum[name]
                away = p - w0[name]
                if name.startswith("fc."):
                    p /= 1 + lr * beta
                elif strategy == "l2sp":
                    p.copy_(w0[name] + away / (1 + lr * alpha))
                else:
                    p.copy_(w0[name] + away.sign() * (away.abs() - lr * alpha).clamp(min=0))
        for name, p in copy.named_parameters():
            torch.testing.assert_close(after[step][name].double(), p.detach(), rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "skipped, scale, taken",
    [
        ({0}, 2.0**16, [0, 1, 2, 3]),
        ({2}, 2.0**16, [1, 2, 2, 3]),
        ({0, 1, 2, 3}, 2.0**16, [0, 0, 0, 0]),
        (set(), 2.0**16, [1, 2, 3, 4]),
        (set(), 0.0, [0, 0, 0, 0]),  # fallen so far that every gradient is 0 / 0, and it can fall no further
    ],
)
def test_whatever_a_strategy_does_after_a_step_it_does_after_those_that_were_taken(skipped, scale, taken):
    class Hook(strategies.Hooks):
        calls = 0

        def after_step(self, optimizer):
            self.calls += 1

    model, counts = Toy(), []
    plan = strategies.make_plan("ft", model, epochs=1, lr=1e-2)
    plan.hooks = Hook()
    overflowing(plan, model, skipped, 4, lambda step, optimizer: counts.append(plan.hooks.calls), scale)
    assert counts == taken


def test_the_checkpoint_is_the_best_on_validation_and_ties_keep_the_earlier(tmp_path):
    values = iter([0.3, 0.7, 0.7, 0.5])
    seen = []

    def judge(rows, scores):
        seen.append(rows.tolist())
        return next(values)

    data = toy_data()
    _, _, run = toy_training(tmp_path, judge=judge, data=data)
    assert run.load("best.pt")["meta"]["epoch"] == 2
    assert all(rows == data.rows["val"].tolist() for rows in seen)  # the test rows were never looked at


def test_a_metric_that_is_better_when_lower_is_minimised(tmp_path):
    values = iter([0.3, 0.2, 0.4, 0.25])
    data = toy_data()
    data.index.metric = "brier"
    _, _, run = toy_training(tmp_path, data=data, judge=lambda rows, scores: next(values))
    assert run.load("best.pt")["meta"]["epoch"] == 2


def test_early_stopping_waits_for_the_last_stage(tmp_path):
    """LP-FT with 8 epochs: validation never improves after the first; the second part starts at epoch 5."""
    values = iter([0.9] + [0.1] * 20)
    judge = lambda rows, scores: next(values)
    _, _, run = toy_training(tmp_path / "lpft", "lpft", epochs=8, judge=judge, patience=2)
    assert [r["stage"] for r in run.load("last.pt")["log"]] == ["lp"] * 4 + ["ft"] * 2
    values = iter([0.9] + [0.1] * 20)
    _, _, run = toy_training(tmp_path / "ft", "ft", epochs=8, judge=judge, patience=2)
    assert len(run.load("last.pt")["log"]) == 3  # the best, and two that were not better


def test_a_stopped_run_stays_stopped_when_it_is_run_again(tmp_path):
    values = iter([0.9] + [0.1] * 20)
    judge = lambda rows, scores: next(values)
    for _ in range(2):
        _, _, run = toy_training(tmp_path, "ft", epochs=8, judge=judge, patience=1)
        assert len(run.load("last.pt")["log"]) == 2


def test_the_schedule_by_hand():
    assert [train.schedule(s, 10, 0.2) for s in (0, 1)] == pytest.approx([1 / 3, 2 / 3])
    assert train.schedule(2, 10, 0.2) == 1.0
    assert train.schedule(6, 10, 0.2) == pytest.approx(0.5)  # half of the eight steps after the rise
    assert train.schedule(9, 10, 0.2) == pytest.approx(0.5 * (1 + math.cos(math.pi * 7 / 8)))
    assert train.schedule(0, 4, 0.0) == 1.0


@pytest.mark.parametrize(("n", "size"), [(33, 32), (65, 32), (7, 3), (32, 32), (2, 32), (100, 16)])
def test_an_epoch_takes_every_image_once_and_leaves_no_lone_one(n, size):
    rows = np.arange(n) + 100
    batches = train.steps_of(rows, size, seed=3, epoch=5)
    assert sorted(np.concatenate(batches).tolist()) == rows.tolist()
    assert max(map(len, batches)) <= size and min(map(len, batches)) >= 2
    again, later, other = (train.steps_of(rows, size, *key) for key in ((3, 5), (3, 6), (4, 5)))
    order = np.concatenate(batches).tolist()
    assert order == np.concatenate(again).tolist()
    if n > 2:
        assert order not in (np.concatenate(later).tolist(), np.concatenate(other).tolist())


def test_rates_in_the_log_are_the_closed_form(tmp_path):
    _, _, run = toy_training(tmp_path, "lpft", epochs=4, warmup=0.0)
    log = run.load("last.pt")["log"]  # 3 steps an epoch, two parts of 6 steps; the log has each epoch's last step
    lp_lr = strategies.STRATEGIES["lp"].default_lr("adamw")
    for row, base, step in zip(log, (lp_lr, lp_lr, 1e-2, 1e-2), (2, 5, 2, 5), strict=True):
        assert row["lr_max"] == row["lr_min"] == pytest.approx(base * 0.5 * (1 + math.cos(math.pi * step / 6)))


@pytest.mark.parametrize(("strategy", "steps"), [("ft", (2, 5, 8, 11)), ("lpft", (2, 5, 2, 5))])
def test_a_schedule_longer_than_the_training_stops_on_its_way_down(tmp_path, strategy, steps):
    """4 epochs of 3 steps on the cosine of 10: 30 steps, or 15 for each half of LP-FT; the log has each
    epoch's last."""
    _, _, run = toy_training(tmp_path, strategy, epochs=4, warmup=0.0, schedule_epochs=10)
    lp_lr = strategies.STRATEGIES["lp"].default_lr("adamw")
    bases, length = ([1e-2] * 4, 30) if strategy == "ft" else ([lp_lr, lp_lr, 1e-2, 1e-2], 15)
    by_hand = [base * 0.5 * (1 + math.cos(math.pi * s / length)) for base, s in zip(bases, steps, strict=True)]
    assert [row["lr_max"] for row in run.load("last.pt")["log"]] == pytest.approx(by_hand, rel=1e-9)


def test_class_weights_and_masked_labels_by_hand():
    data = toy_data()
    data.index.labels = np.array([0] * 30 + [1] * 10)
    loss, weight = criterion_of(data, np.arange(40), "balanced")
    logits, y = torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([0, 1])
    # 40 / (2 * 30) = 2/3 and 40 / (2 * 10) = 2: the classes' total weights are equal
    assert loss(logits, y).item() == pytest.approx((2 / 3 + 2) * math.log(2), rel=1e-6)
    assert weight(y) == pytest.approx(2 / 3 + 2, rel=1e-6)

    data.index.task, data.index.labels = "multilabel", np.array([[1, 0], [np.nan, 0], [0, 1]], np.float32)
    loss, weight = criterion_of(data, np.arange(3), "none")
    logits = torch.tensor([[2.0, -1.0], [5.0, 0.0]], requires_grad=True)
    y = torch.tensor([[1.0, 0.0], [math.nan, 1.0]])
    by_hand = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1)) + math.log(2)
    total = loss(logits, y)
    assert total.item() == pytest.approx(by_hand, rel=1e-6) and weight(y) == 3
    total.backward()
    assert logits.grad[1, 0] == 0 and torch.isfinite(logits.grad).all()


def test_labels_are_balanced_by_their_own_known_images():
    """Of label a one positive and three negatives: each positive weighs 3; of b three and one: a third."""
    data = toy_data()
    data.index.task, data.index.classes = "multilabel", ["a", "b"]
    known = [[1, 1], [0, 1], [0, 1], [0, 0], [math.nan, math.nan]]
    data.index.labels = np.array([*known, [1, 0], [1, 0]], np.float32)  # the last two do not train
    loss, weight = criterion_of(data, np.arange(5), "balanced")
    for y, by_hand in (([[1.0, 1.0]], 3 + 1 / 3), ([[0.0, 0.0]], 1 + 1), ([[1.0, math.nan]], 3)):
        y = torch.tensor(y)
        assert loss(torch.zeros(1, 2), y).item() == pytest.approx(by_hand * math.log(2), rel=1e-6)
        assert weight(y) == (~torch.isnan(y)).sum()


@pytest.mark.parametrize("grad_accum", [1, 2])
@pytest.mark.parametrize("class_weights", ["none", "balanced"])
def test_losses_in_the_log_are_the_weighted_means_of_the_training_s_classes(tmp_path, class_weights, grad_accum):
    """At a rate of 0: the mean over steps of each step's weighted mean, as torch's cross-entropy has it. 18
    to 6 in training, 4 to 4 in validation, and all of one class in the test images."""
    data = toy_data()
    data.index.labels = np.array([0, 0, 0, 1] * 6 + [0, 1] * 4 + [1] * 8)
    model = Toy(norm=False)
    factors = np.array([24 / (2 * 18), 24 / (2 * 6)] if class_weights == "balanced" else [1.0, 1.0])

    def by_hand(rows):
        y = data.index.labels[rows]
        with torch.no_grad():
            logits = model(data.images(rows, torch.device("cpu")))
        each = -logits.log_softmax(dim=1).numpy()[np.arange(len(y)), y] * factors[y]
        return each.sum() / factors[y].sum()

    plan = strategies.make_plan("ft", model, epochs=1, lr=0.0)
    settings = {"batch_size": 4, "augment": "none", "class_weights": class_weights, "grad_accum": grad_accum}
    recipe = train.Recipe(epochs=1, **CPU, **settings)
    judge = lambda rows, scores: 0.5
    train.run(model, plan, data, runs.RunFolder(tmp_path), recipe, metric="balanced_accuracy", judge=judge)
    (row,) = read(tmp_path / "log.csv")
    steps = train.steps_of(data.rows["train"], 4 * grad_accum, 0, 0)
    assert len({(data.index.labels[step] == 1).sum() for step in steps}) > 1  # not every step like the whole
    assert float(row["train_loss"]) == pytest.approx(np.mean([by_hand(step) for step in steps]), rel=1e-5)
    assert float(row["val_loss"]) == pytest.approx(by_hand(data.rows["val"]), rel=1e-5)


def test_a_validation_loss_in_uneven_parts_is_the_mean_over_all(tmp_path):
    data = toy_data()
    data.index.labels = np.array([0, 0, 0, 1] * 6 + [0, 1] * 8)
    model, recipe = Toy(), train.Recipe(epochs=1, batch_size=3, **CPU)
    criterion = criterion_of(data, data.rows["train"], "balanced")
    scores, loss = train.infer(model, data, data.rows["val"], recipe, criterion)
    y = data.index.labels[data.rows["val"]]
    factors = np.array([24 / (2 * 18), 24 / (2 * 6)])[y]
    assert loss == pytest.approx((-np.log(scores[np.arange(8), y]) * factors).sum() / factors.sum(), rel=1e-6)


def test_the_probe_of_auto_rgn_leaves_the_batches_alone(tmp_path):
    """rgn_source=probe draws batches of its own; the epoch's order and the model's buffers do not notice."""
    data = toy_data()
    recipe = train.Recipe(epochs=2, batch_size=8, **CPU)
    models = []
    for strategy in ("autorgn", "ft"):
        torch.manual_seed(0)
        models.append(Toy())
        hyper = strategies.Hyperparameters(rgn_source="probe", weight_decay=0.0)
        plan = strategies.make_plan(strategy, models[-1], epochs=2, lr=0.0, hyper=hyper)
        judge = judge_of(data)
        train.run(
            models[-1], plan, data, runs.RunFolder(tmp_path / strategy), recipe, metric="balanced_accuracy", judge=judge
        )
    for name, value in models[0].state_dict().items():  # BatchNorm statistics of the same batches in the same order
        assert torch.equal(value, models[1].state_dict()[name]), name
    assert len(runs.RunFolder(tmp_path / "autorgn").load("last.pt")["ratios"]) == 2 * 3  # conv, bn, fc


def test_the_probe_of_auto_rgn_draws_training_batches_of_its_own(tmp_path):
    """rgn_batches=3 of the 3 that there are: were they the epoch's own, they would be the same three."""
    data = recorded(toy_data())
    hyper = strategies.Hyperparameters(rgn_source="probe", rgn_batches=3)
    model = Toy()
    plan = strategies.make_plan("autorgn", model, epochs=4, hyper=hyper)
    recipe = train.Recipe(epochs=4, batch_size=8, **CPU)
    judge = lambda rows, scores: 0.5
    train.run(model, plan, data, runs.RunFolder(tmp_path), recipe, metric="balanced_accuracy", judge=judge)
    trained = [rows for rows, _, trains in data.given if trains]
    probed = [rows for rows, _, trains in data.given if not trains and rows != data.rows["val"].tolist()]
    assert len(trained) == len(probed) == 4 * 3
    assert {i for rows in probed for i in rows} == set(data.rows["train"].tolist())
    drawn = [tuple(rows) for rows in trained + probed]
    assert len(set(drawn)) == len(drawn)  # no batch twice, of the epoch or of the probe, in any epoch


def test_a_short_schedule_stays_at_zero_and_odd_numbers_leave_no_lone_image():
    assert train.schedule(20, 20, 0.05) == train.schedule(40, 20, 0.05) == pytest.approx(0.0)
    assert sorted(len(p) for p in train.parts_of(np.arange(39), 2)) == [2] * 18 + [3]
    assert [len(p) for p in train.parts_of(np.arange(3), 1)] == [1, 1, 1]
    assert [len(p) for p in train.parts_of(np.arange(1), 8)] == [1]
