"""Claim: from the second epoch on, the way from a file to an augmented batch costs an eighth of the usual one.

    python benchmarks/input.py                       # 1,000 pictures of 512 px as JPEG, 224 px; about 3 minutes

Images a second, of all training images of an epoch, in turns:
    usual    ImageFolder, PIL, torchvision's transforms, two loader workers: decodes in every epoch
    ours     images.py: decoded once to uint8, then batches augmented and normalised; light is crop-like shift and flip,
             strong is rotation and scale besides
The first epoch of ours, decoding and cache included, stands apart.
"""

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import datasets, transforms

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import images

MEAN, STD = images.IMAGENET_MEAN, images.IMAGENET_STD


def draw(folder: Path, count: int, side: int) -> list[Path]:
    rng, files = np.random.default_rng(0), []
    for i in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
        file = folder / "ab"[i % 2] / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        small.resize((side, side), Image.BICUBIC).save(file, quality=90)
        files.append(file)
    return files


def usual(folder: Path, size: int, kind: str, batch: int):
    """A function that runs an epoch."""
    light = [transforms.RandomHorizontalFlip(), transforms.ColorJitter(0.1, 0.1)]
    moved = transforms.RandomAffine(0, translate=(0.05, 0.05))
    if kind == "strong":
        moved = transforms.RandomAffine(15, translate=(0.1, 0.1), scale=(0.85, 1.15))
    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    chain = transforms.Compose([transforms.Resize((size, size)), moved, *light, *last])
    loader = torch.utils.data.DataLoader(datasets.ImageFolder(str(folder), chain), batch, shuffle=True, num_workers=2)
    return lambda: [None for _ in loader]


def ours(pixels: torch.Tensor, kind: str, batch: int):
    def epoch():
        order = torch.randperm(len(pixels)).numpy()
        for start in range(0, len(order), batch):
            draws = torch.Generator().manual_seed(start)
            images.batch(pixels, order[start : start + batch], "cpu", augment=kind, generator=draws)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--side", type=int, default=512, help="of the files, px")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        files = draw(Path(scratch) / "pictures", args.images, args.side)
        started = time.perf_counter()
        store = images.decode(files, args.img_size, Path(scratch) / "cache", workers=2)
        pixels = store.data
        first = time.perf_counter() - started
        print(f"decoding once, cache written: {args.images / first:.0f} images/s ({first:.1f} s)")
        for kind in ("light", "strong"):
            contenders = {
                "usual": usual(Path(scratch) / "pictures", args.img_size, kind, 32),
                "ours": ours(pixels, kind, 32),
            }
            speed: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(args.repeat):
                for name, epoch in contenders.items():
                    started = time.perf_counter()
                    epoch()
                    speed[name].append(args.images / (time.perf_counter() - started))
            ratios = [b / a for a, b in zip(speed["usual"], speed["ours"], strict=True)]
            medians = {name: statistics.median(values) for name, values in speed.items()}
            shown = ", ".join(f"{name} {value:.0f} images/s" for name, value in medians.items())
            began = args.images / (first + args.images / medians["ours"])
            print(f"{kind}: {shown}; ratio {statistics.median(ratios):.1f}; first epoch of ours {began:.0f} images/s")


if __name__ == "__main__":
    main()
