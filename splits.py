"""An index -> splits that no group (patient, video) crosses, folds, tuning's inner split, and the data check.

    index = datasets.load_index("my_images/")
    folds = make_splits(index, seed=0)                # folds[0]: "train", "val" or "test" for each image
    write_splits("splits.csv", index, folds)

Goes with datasets.py, whose Index it cuts. Imports numpy. Order: the splits, their file, the split inside a fold, copies, the
data check."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datasets import SPLIT_NAMES, SPLITS, DataError, Index, listing, natural, read_table, refuse


def make_splits(
    index: Index,
    identical: list[list[int]] = (),
    *,
    seed: int = 0,
    val_fraction: float = 0.15,
    test_fraction: float = 0.2,
    folds: int = 1,
) -> list[np.ndarray]:
    """For each fold an array of N strings, train, val or test. Official splits are kept; what is missing is
    cut from the training images, by group and stratified by label, the same from the same seed.

    folds > 1 where the dataset has that many official folds: those. Without official test images: each fold
    is the test set once and validation is cut from the rest. With them, they are every fold's test set and
    the folds take turns as validation. identical: lists of rows with the same bytes, which are never cut
    apart. Raises DataError for a group on two sides or a class missing on one."""
    official = np.array(index.official)
    units = tied_groups(index.groups, identical)
    rng = np.random.default_rng(seed)

    def completed(official: np.ndarray) -> np.ndarray:
        """The split with what it lacks, val or test or both, cut from its training images."""
        shares = {"train": 1.0}
        shares |= {} if "val" in official else {"val": val_fraction}
        shares |= {} if "test" in official else {"test": test_fraction}
        shares["train"] -= sum(shares.values()) - 1
        if shares["train"] <= 0:
            raise DataError(f"val and test fractions leave nothing to train on: {shares}")
        pool = np.flatnonzero((official == "") | (official == "train"))
        split = official.astype("<U5")
        split[pool] = np.array(list(shares))[cut(index, units, pool, np.array(list(shares.values())), rng)]
        return split

    if folds > 1 and index.official_folds:
        if folds != len(index.official_folds):
            raise DataError(
                f"{index.name} has {len(index.official_folds)} official folds, not {folds}: --folds "
                f"{len(index.official_folds)} uses them"
            )
        result = [completed(np.array(fold)) for fold in index.official_folds]
    elif folds > 1:
        result, has_test = [], "test" in official
        pool = np.flatnonzero(official != "test")
        there = len(np.unique(units[pool]))
        if 0 < there < folds:
            where = " outside of the official test set" if has_test else ""
            raise DataError(
                f"--folds {folds}, but there are only {there} {unit_name(index, 'groups')}{where}"
            )
        parts = cut(index, units, pool, np.full(folds, 1 / folds), rng)
        for k in range(folds):
            split = official.astype("<U5")
            held, rest = pool[parts == k], pool[parts != k]
            split[rest], split[held] = "train", "val" if has_test else "test"
            if not has_test:
                split[rest[cut(index, units, rest, np.array([1 - val_fraction, val_fraction]), rng) == 1]] = (
                    "val"
                )
            result.append(split)
    else:
        result = [completed(official)]
    for k, split in enumerate(result):
        check_split(index, split, f"fold {k}" if folds > 1 else "")
    return result


def tied_groups(groups: list[str], identical: Iterable[list[int]]) -> np.ndarray:
    """Group number of each image, groups that share byte-identical images being one."""
    names, number = np.unique(np.array(groups), return_inverse=True)
    parent = list(range(len(names)))

    def root(i):
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]  # halves the way for the next who asks
        return i

    for rows in identical:
        for row in rows[1:]:
            parent[root(number[row])] = root(number[rows[0]])
    return np.array([root(i) for i in range(len(names))])[number]


def clusters(index: Index, identical: Iterable[list[int]]) -> list[str]:
    """N names of what is resampled as one: the group, and for groups that share byte-identical images, which are no
    independent ones, the first of them. Where the metric is a mean over videos, a video stays one of its own."""
    if index.unit_score == "video":
        return index.groups
    first: dict[int, str] = {}
    tied = tied_groups(index.groups, identical).tolist()
    return [first.setdefault(number, group) for number, group in zip(tied, index.groups)]


def strata(index: Index) -> np.ndarray:
    """(N, C) 0/1: the class of each image, or its labels and "none of them"."""
    if index.task == "multiclass":
        return np.eye(len(index.classes))[index.labels]
    known = np.nan_to_num(index.labels)
    return np.column_stack([known, known.sum(axis=1) == 0]).astype(float)


def cut(index: Index, units: np.ndarray, pool: np.ndarray, shares: np.ndarray, rng) -> np.ndarray:
    """Part number (0..len(shares)-1) of each image of the pool; whole groups only.

    Groups go, those with the rarest class first and larger ones before smaller ones, to the part whose counts
    per class they bring closest to its share. The distance is chi-square's, relative to the share: all parts
    fill at one pace, so that large groups do not all end in the largest part. A class with as many groups
    left as parts that lack it goes first to those parts."""
    if len(shares) == 1 or not len(pool):
        return np.zeros(len(pool), dtype=int)
    _, group = np.unique(units[pool], return_inverse=True)
    counts = np.zeros((group.max() + 1, strata(index).shape[1]))
    np.add.at(counts, group, strata(index)[pool])
    present = counts > 0
    groups_with = present.sum(axis=0)
    rarity = np.where(present, groups_with, len(counts) + 1).min(axis=1)
    order = np.lexsort((rng.random(len(counts)), -counts.sum(axis=1), rarity))
    totals = np.maximum(counts.sum(axis=0), 1)
    # From here on in plain floats: tens of thousands of groups have a class or two each.
    cells = [[] for _ in range(len(counts))]  # of each group (class, share of the class's images)
    for g, c in zip(*(axis.tolist() for axis in np.nonzero(present))):
        cells[g].append((c, float(counts[g, c] / totals[c])))
    have = [[0.0] * counts.shape[1] for _ in shares]
    lacking = [len(have)] * counts.shape[1]  # parts without the class
    left, part = groups_with.tolist(), np.zeros(len(counts), dtype=int)
    shares = np.maximum(shares, 1e-9).tolist()
    for g in order.tolist():
        scarce = [c for c, _ in cells[g] if left[c] <= lacking[c]]
        best, least = 0, np.inf
        for k, share in enumerate(shares):
            cost = -1e9 * sum(have[k][c] == 0 for c in scarce) if scarce else 0.0
            for c, f in cells[g]:
                cost += f * (f + 2 * (have[k][c] - share)) / share
            if cost < least:
                best, least = k, cost
        part[g] = best
        for c, f in cells[g]:
            lacking[c] -= have[best][c] == 0
            have[best][c] += f
            left[c] -= 1
    return part[group]


def check_split(index: Index, split: np.ndarray, where: str = "", complete: bool = True) -> None:
    """DataError where a group is in two splits, or a class (multiclass) or any image is missing from one.
    complete
    False: a split without any image is not missed, it is still to be cut."""
    at = f"{index.name}{', ' + where if where else ''}"
    if index.task == "multiclass" and len(index.classes) < 2:
        raise DataError(f"{at}: {listing(index.classes)} is the only class; there is nothing to tell apart")
    sides = defaultdict(set)
    for group, side in zip(index.groups, split):
        sides[group].add(str(side))
    if torn := [f"{g} ({' and '.join(sorted(s))})" for g, s in sides.items() if len(s) > 1]:
        raise DataError(
            f"{at}: {len(torn)} {index.group_kind}s are in two splits: {listing(torn)}"
            + torn_by_spelling(index, split)
        )
    for side in SPLITS:
        rows = np.flatnonzero(split == side)
        if not len(rows) and not complete:
            continue
        if not len(rows):
            raise DataError(f"{at}: no image is in {side}; {len(sides)} {index.group_kind}s in all")
        if index.task == "multiclass":
            lacking = [c for i, c in enumerate(index.classes) if not (index.labels[rows] == i).any()]
            if lacking:
                of = {
                    c: len({g for g, y in zip(index.groups, index.labels) if index.classes[y] == c})
                    for c in lacking
                }
                raise DataError(
                    f"{at}: class {listing(lacking)} is absent from {side} ({listing((f'{c}: {n}' for c, n in of.items()), most=1)} "
                    f"{index.group_kind}s in all); it needs one in each split: join classes, add data, or change the split"
                )


def torn_by_spelling(index: Index, split: np.ndarray) -> str:
    """What check_split adds where groups are in two splits only because one_spelling joined their ids: a given
    split that keeps one spelling here and the other there. "" where there are none."""
    found = defaultdict(lambda: defaultdict(set))
    for group, spelt, side in zip(index.groups, index.spelt or (), split):
        found[group][spelt].add(str(side))
    joined = []
    for ways in found.values():
        if all(len(sides) == 1 for sides in ways.values()) and len(set().union(*ways.values())) > 1:
            joined.append(" = ".join(f"{spelt!r} in {min(sides)}" for spelt, sides in ways.items()))
    if not joined:
        return ""
    return (
        f"; {len(joined)} of them as two spellings of one id ({listing(joined)}): give each {index.group_kind} one "
        f"spelling and one split in the table or file names, or pass --exact-ids if they are different {index.group_kind}s"
    )


def write_splits(file: Path, index: Index, folds: list[np.ndarray]) -> Path:
    """image,group,label,split,fold: a row per image and fold, to be read, edited and handed back. Returns the
    file: name.csv, or name-2.csv and so on where that is there with other content, which may have been
    edited."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["image", "group", "label", "split", "fold"])
    for k, split in enumerate(folds):
        writer.writerows(
            (path, group, index.label_text(i), split[i], k)
            for i, (path, group) in enumerate(zip(index.paths, index.groups))
        )
    content = out.getvalue().encode()
    file.parent.mkdir(parents=True, exist_ok=True)
    written, number = file, 1
    while written.exists():
        if written.read_bytes() == content:
            return written
        number += 1
        written = file.with_name(f"{file.stem}-{number}{file.suffix}")
    temporary = written.with_name(f"{written.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, written)
    return written


def read_splits(file: Path, index: Index) -> list[np.ndarray]:
    """The folds of a splits.csv. An image with a blank split is left out ("") of that fold. Rows are matched by
    image; their group column is for the reader: which images are one group is the index's to say, and a file
    that puts a group on two sides is refused."""
    if not Path(file).is_file():
        raise DataError(f"--splits-file {file}: no such file")
    header, rows = read_table(Path(file))
    if absent := [c for c in ("image", "split") if c not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=12)}")
    row_of = {path: i for i, path in enumerate(index.paths)}
    if unknown := [r["image"] for r in rows if r["image"] not in row_of]:
        raise DataError(f"{file}: {len(unknown)} images are not in {index.name}: {listing(unknown)}")
    if wrong := [
        f"{r['image']}: {r['split']!r}" for r in rows if r["split"].lower() not in (*SPLIT_NAMES, "")
    ]:
        raise DataError(
            f"{file}: the split must be train, val or test; {len(wrong)} rows are not: {listing(wrong)}"
        )
    if "label" in header:
        differ = []
        for r in rows:
            label = index.label_text(row_of[r["image"]])
            if label_parts(r["label"]) != label_parts(label):
                differ.append(f"{r['image']}: {r['label']!r}, not {label!r}")
        refuse(file, differ, f"labels differ from those of {index.name}")
    numbers = sorted({r.get("fold", "0") for r in rows}, key=natural)
    folds = []
    for number in numbers:
        mine = [r for r in rows if r.get("fold", "0") == number]
        if twice := [p for p, n in Counter(r["image"] for r in mine).items() if n > 1]:
            raise DataError(f"{file}: {len(twice)} images stand twice in fold {number}: {listing(twice)}")
        if missing := sorted(set(row_of) - {r["image"] for r in mine}):
            raise DataError(
                f"{file}: {len(missing)} images of {index.name} are not in fold {number}: {listing(missing)}"
            )
        split = np.full(len(index), "", dtype="<U5")
        for r in mine:
            split[row_of[r["image"]]] = SPLIT_NAMES.get(r["split"].lower(), "")
        used = np.flatnonzero(split != "")
        check_split(index.keep(used), split[used], f"{file}, fold {number}")
        folds.append(split)
    return folds


def label_parts(text: str) -> set[str]:
    """Of "b | a" {"a", "b"}: the order of several labels says nothing."""
    return {part.strip() for part in text.split("|")} - {""}


def nested_split(
    index: Index,
    outer: np.ndarray,
    identical: list[list[int]] = (),
    *,
    seed: int = 0,
    val_fraction: float = 0.15,
) -> np.ndarray:
    """The split that tunes within one fold: its training images alone, cut into "train" and "val" by group and
    stratified by label; every other image is "". No image that validates or scores the fold takes part.
    outer: the fold, N strings. Returns N strings; check_nested proves it."""
    pool = np.flatnonzero(outer == "train")
    shares = np.array([1 - val_fraction, val_fraction])
    inner = np.full(len(outer), "", dtype="<U5")
    units = tied_groups(index.groups, identical)
    inner[pool] = np.array(["train", "val"])[
        cut(index, units, pool, shares, np.random.default_rng([seed, 1]))
    ]
    return inner


def check_nested(index: Index, outer: np.ndarray, inner: np.ndarray) -> None:
    """DataError where tuning would see what the fold is judged by: an image, or another of the same group,
    that validates or tests the fold; or where tuning's own train and val share a group or lack a class."""
    where = f"{index.name}, tuning"
    groups = np.array(index.groups)
    refuse(
        where,
        np.array(index.paths)[(inner != "") & (outer != "train")],
        "images are not training images of the fold",
    )
    judged = np.isin(groups, groups[np.isin(outer, ("val", "test"))])
    refuse(
        where,
        np.unique(groups[(inner != "") & judged]),
        f"{index.group_kind}s also validate or test the fold",
    )
    kept = np.flatnonzero(inner != "")
    if "val" not in inner or "train" not in inner:
        raise DataError(f"{where}: the fold's {len(kept)} training images cannot be cut in two; add data")
    check_split(index.keep(kept), inner[kept], "tuning", complete=False)


def spanning(identical: list[list[int]], split: np.ndarray) -> list[list[int]]:
    """The lists of identical images that stand in two splits."""
    return [rows for rows in identical if len({split[i] for i in rows} - {""}) > 1]


def without_copies(identical: list[list[int]], split: np.ndarray) -> np.ndarray:
    """The split with copies taken out: of images in test those in train and val, of images in val those in
    train."""
    split = split.copy()
    for rows in spanning(identical, split):
        keep = max((split[i] for i in rows), key=("", *SPLITS).index)
        for i in rows:
            if split[i] != keep:
                split[i] = ""
    return split


# --------------------------------------------------------------------------------------------- the data check


CHECK_COLUMNS = ("table", "split", "class", "images", "groups", "units", "official", "note")


def check_data(
    index: Index,
    folds: list[np.ndarray] = (),
    *,
    bad: Iterable[tuple[int, str]] = (),
    identical: Iterable[list[int]] = (),
    found: str = "",
    warnings: Iterable[str] = (),
    problems: Iterable[str] = (),
) -> tuple[list[dict[str, str | int]], list[str], list[str]]:
    """What --check-data says: (rows, problems, warnings). A problem has to be mended, a warning is for a
    person to judge.

    rows have the columns of CHECK_COLUMNS: counts per split and class as the archive has them, beside the
    official counts of a full copy, and per fold as they will be used; then problems, warnings and every
    unreadable image.
    folds: of make_splits; without them the official splits are checked. bad, identical, found, warnings: of
    Pixels. problems: what make_splits said where it gave no folds; they come first, and once."""
    rows = [{"table": "images", "note": found}] if found else []
    problems, warnings = list(dict.fromkeys(problems)), [*index.warnings, *warnings]
    said = {problem.partition(": ")[2] for problem in problems}  # without the place
    archive = np.array(index.official)
    for row in count_rows(index, archive, "archive"):
        official = index.counts.get((row["split"], row["class"]), {})
        row["official"] = ", ".join(f"{either(n)} {unit_name(index, what)}" for what, n in official.items())
        differ = [
            what for what, n in official.items() if row[what] not in (n if isinstance(n, tuple) else (n,))
        ]
        here = ", ".join(f"{row[what]} {unit_name(index, what)}" for what in differ)
        full = ", ".join(f"{either(official[what])}" for what in differ)
        if differ:
            side = " ".join(filter(None, (row["split"], row["class"])))
            warnings.append(f"{index.name}, {side}: {here}; a full copy has {full}")
        rows.append(row)
    for k, split in enumerate(folds):
        rows += count_rows(index, split, f"fold {k}")
    checked = [(f"fold {k}", split) for k, split in enumerate(folds)] or [("official split", archive)]
    for where, split in checked:
        used = np.flatnonzero(split != "")
        try:
            check_split(index.keep(used), split[used], where, complete=bool(len(folds)))
        except DataError as error:
            problems += [str(error)] if str(error).partition(": ")[2] not in said else []
    warnings += leak_warnings(index, list(identical), checked)
    unreadable = [f"{index.paths[i]} ({reason})" for i, reason in bad]
    if unreadable:
        problems.append(
            f"{index.name}: {len(unreadable)} of {len(index)} images cannot be read: {listing(unreadable)}; "
            "mend them or give --skip-bad"
        )
    for table, notes in (("problem", problems), ("warning", warnings), ("unreadable", unreadable)):
        rows += [{"table": table, "note": note} for note in notes]
    return [dict.fromkeys(CHECK_COLUMNS, "") | row for row in rows], problems, warnings


def leak_warnings(
    index: Index, identical: list[list[int]], splits: list[tuple[str, np.ndarray]]
) -> list[str]:
    """A line for byte-identical images in two splits, of two groups, with two labels."""
    sets = "sets of byte-identical images"
    lines = []
    for where, split in splits:
        if across := spanning(identical, split):
            names = listing(" = ".join(f"{index.paths[i]} ({split[i]})" for i in same[:3]) for same in across)
            lines.append(
                f"{index.name}, {where}: {len(across)} {sets} span two splits: {names}; --drop-duplicates takes "
                "the copies out"
            )
    questions = [("labels", index.label_text)]
    questions += (
        [] if index.group_kind == "image" else [(unit_name(index, "groups"), lambda i: index.groups[i])]
    )
    for what, value in questions:
        if differ := [same for same in identical if len({value(i) for i in same}) > 1]:
            names = listing(" = ".join(f"{index.paths[i]} ({value(i)})" for i in same[:3]) for same in differ)
            lines.append(f"{index.name}: {len(differ)} {sets} have different {what}: {names}")
    return lines


def count_rows(index: Index, split: np.ndarray, table: str) -> Iterable[dict[str, str | int]]:
    """Images, groups and units of each split and class, and of all. A multilabel class counts where it is
    1."""
    groups = np.unique(np.array(index.groups), return_inverse=True)[1]
    units = groups * 0 if index.units is None else np.unique(np.array(index.units), return_inverse=True)[1]
    positive = index.labels == 1 if index.task == "multilabel" else strata(index) == 1
    sides = ["all", *(side for side in SPLITS if side in split)]
    for side in sides:
        at = np.full(len(index), True) if side == "all" else split == side
        for c, name in enumerate(["", *index.classes]):
            rows = np.flatnonzero(at & positive[:, c - 1]) if name else np.flatnonzero(at)
            yield {
                "table": table,
                "split": side,
                "class": name,
                "images": len(rows),
                "groups": "" if index.group_kind == "image" else len(np.unique(groups[rows])),
                "units": "" if index.units is None else len(np.unique(units[rows])),
            }


def unit_name(index: Index, what: str) -> str:
    """'patients', 'studies' for "groups", "units"."""
    kind = {"images": "image", "groups": index.group_kind, "units": index.unit_kind}[what]
    return kind[:-1] + "ies" if kind.endswith("y") else kind + "s"


def either(n: int | tuple[int, ...]) -> str:
    return " or ".join(map(str, n)) if isinstance(n, tuple) else str(n)
