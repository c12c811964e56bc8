"""What a careful user writes today to compare the eight strategies: the script that ftcompare is timed against.

    python benchmarks/usual.py FOLDER --arch resnet18 --epochs 4 --img-size 96      # FOLDER/{train,val,test}/<class>/

ImageFolder, PIL, torchvision's transforms, loader workers, one plain loop for all, AdamW, a cosine, the checkpoint
with the best validation balanced accuracy in memory, the test set once, the same batches, epochs and rates for each
as ftcompare has. --amp and --channels-last are what a user adds who reads the tuning guide. Nothing else of this
project is imported, and it writes no reports, no files, no resumable state.
"""

import argparse
import copy
import json
import math
import time

import torch
from torch import nn
from torchvision import datasets, models, transforms

RATES = {"ft": 1e-4, "lp": 3e-3, "glf": 1e-4, "gfl": 1e-4, "lpft": 3e-5, "l1sp": 1e-4, "l2sp": 1e-4, "autorgn": 1e-3}
ALPHA, BETA, DECAY = {"l1sp": 1e-4, "l2sp": 0.1}, 0.01, 0.01
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def loaders(folder, size, batch, workers, augment):
    light = [
        transforms.RandomHorizontalFlip(),
        transforms.RandomAffine(0, translate=(0.05, 0.05)),
        transforms.ColorJitter(0.1, 0.1),
    ]
    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    found = {}
    for part in ("train", "val", "test"):
        steps = [transforms.Resize((size, size)), *(light if part == "train" and augment else []), *last]
        images = datasets.ImageFolder(f"{folder}/{part}", transforms.Compose(steps))
        found[part] = torch.utils.data.DataLoader(images, batch, shuffle=part == "train", num_workers=workers)
    return found


def blocks_of(model):
    """Stem and stages of a ResNet, from the input to the head."""
    stem = nn.ModuleList([model.conv1, model.bn1])
    return [stem, model.layer1, model.layer2, model.layer3, model.layer4, model.fc]


def freeze_all_but(model, blocks):
    for p in model.parameters():
        p.requires_grad_(False)
    model.eval()
    for block in blocks:
        block.train()
        for p in block.parameters():
            p.requires_grad_(True)


def stage_blocks(strategy, blocks, epoch, epochs):
    """The blocks that train in this epoch."""
    if strategy == "lp" or (strategy == "lpft" and epoch < epochs // 2):
        return blocks[-1:]
    if strategy in ("glf", "gfl"):
        opened = min(int(epoch * len(blocks) / epochs), len(blocks) - 1)
        body = blocks[-2::-1] if strategy == "glf" else blocks[:-1]
        return [blocks[-1], *body[:opened]]
    return blocks


def relative_norms(model, batches, loss_of):
    """Auto-RGN as its authors wrote it: five more batches an epoch, norms one by one."""
    sums = {}
    for i, (x, y) in enumerate(batches):
        if i == 5:
            break
        model.zero_grad()
        loss_of(model(x), y).backward()
        for name, p in model.named_parameters():
            ratio = (p.grad.norm() / p.norm()).item() if p.norm() > 0 else 0.0
            sums[name] = sums.get(name, 0.0) + ratio
    model.zero_grad()
    body = {n: v for n, v in sums.items() if not n.startswith("fc.")}
    return {n: v / max(body.values()) for n, v in body.items()}


def balanced_accuracy(model, loader, classes, autocast):
    model.eval()
    right, count = torch.zeros(classes), torch.zeros(classes)
    with torch.no_grad():
        for x, y in loader:
            with autocast():
                called = model(x).argmax(1)
            for c in range(classes):
                right[c] += ((called == y) & (y == c)).sum()
                count[c] += (y == c).sum()
    return (right / count)[count > 0].mean().item()


def penalty(strategy, model, start):
    moved = [(p, start[n]) for n, p in model.named_parameters() if not n.startswith("fc.")]
    if strategy == "l1sp":
        pull = sum((p - w).abs().sum() for p, w in moved)
    else:
        pull = 0.5 * sum((p - w).pow(2).sum() for p, w in moved)
    return ALPHA[strategy] * pull + BETA / 2 * sum(p.pow(2).sum() for p in model.fc.parameters())


def train(strategy, args, parts, classes):
    torch.manual_seed(args.seed)
    model = getattr(models, args.arch)(weights=None)
    if args.weights:
        model.load_state_dict(torch.load(args.weights, weights_only=True))
    model.fc = nn.Linear(model.fc.in_features, classes)
    if args.channels_last:
        model = model.to(memory_format=torch.channels_last)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    blocks, cross_entropy = blocks_of(model), nn.CrossEntropyLoss()

    def autocast():
        return torch.autocast("cpu", torch.bfloat16, enabled=args.amp)

    best, kept, optimizer, before = -1.0, None, None, None
    for epoch in range(args.epochs):
        trained = stage_blocks(strategy, blocks, epoch, args.epochs)
        freeze_all_but(model, trained)
        if len(trained) != before:
            decay = 0.0 if strategy in ALPHA else DECAY
            named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
            groups = [{"params": [p], "name": n} for n, p in named]
            if strategy != "autorgn":
                groups = [{"params": [p for _, p in named], "name": "all"}]
            rate = RATES["lp"] if strategy == "lpft" and len(trained) == 1 else RATES[strategy]
            optimizer, before = torch.optim.AdamW(groups, rate, weight_decay=decay), len(trained)
        ratios = relative_norms(model, parts["train"], cross_entropy) if strategy == "autorgn" else {}
        steps = len(parts["train"])
        for i, (x, y) in enumerate(parts["train"]):
            x = x.to(memory_format=torch.channels_last) if args.channels_last else x
            with autocast():
                logits = model(x)
            loss = cross_entropy(logits.float(), y)
            if strategy in ALPHA:
                loss = loss + penalty(strategy, model, start)
            optimizer.zero_grad()
            loss.backward()
            factor = 0.5 * (1 + math.cos(math.pi * (epoch * steps + i) / (args.epochs * steps)))
            for group in optimizer.param_groups:
                group["lr"] = rate * factor * ratios.get(group["name"], 1.0)
            optimizer.step()
        value = balanced_accuracy(model, parts["val"], classes, autocast)
        if value > best:
            best, kept = value, copy.deepcopy(model.state_dict())
    model.load_state_dict(kept)
    return {"val": best, "test": balanced_accuracy(model, parts["test"], classes, autocast)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--strategy", nargs="+", default=list(RATES))
    parser.add_argument("--weights", help="state dict (random weights)")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--img-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--augment", choices=("none", "light"), default="light")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--channels-last", action="store_true")
    args = parser.parse_args()
    parts = loaders(args.folder, args.img_size, args.batch_size, args.workers, args.augment == "light")
    for strategy in args.strategy:
        started = time.perf_counter()
        result = train(strategy, args, parts, len(parts["train"].dataset.classes))
        print(json.dumps({"strategy": strategy, "seconds": time.perf_counter() - started} | result), flush=True)


if __name__ == "__main__":
    main()
