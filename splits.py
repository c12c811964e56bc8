"""An index -> splits that no group (patient, video) crosses, folds, tuning's inner split, and the data check.

    index = datasets.load_index("my_images/")
    folds = make_splits(index, seed=0)                # folds[0]: "train", "val" or "test" for each image
    write_splits("splits.csv", index, folds)

Goes with datasets.py, whose Index it cuts. Imports numpy. Order: the splits, their file, the split inside a
fold, copies, the data check."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

import runs
from datasets import SPLIT_NAMES, SPLITS, DataError, Index, duplicates, listing, natural, read_table, refuse


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
    ties = tied_groups(index.groups, identical)
    rng = np.random.default_rng(seed)
    if folds > 1 and not index.official_folds:
        result = turns(index, ties, folds, val_fraction, rng)
    else:
        given = index.official_folds if folds > 1 else [index.official]
        if len(given) != folds:
            way_out = f"--folds {len(given)} uses them"
            raise DataError(f"{index.name} has {len(given)} official folds, not {folds}: {way_out}")
        fractions = {"val": val_fraction, "test": test_fraction}
        result = [completed(index, ties, np.array(official), fractions, rng) for official in given]
    for k, split in enumerate(result):
        check_split(index, split, f"fold {k}" if folds > 1 else "")
    return result


def completed(
    index: Index, ties: np.ndarray, official: np.ndarray, fractions: dict[str, float], rng: np.random.Generator
) -> np.ndarray:
    """The official split with what it lacks, val or test or both, cut from its training images."""
    lacking = {side: share for side, share in fractions.items() if side not in official}
    shares = {"train": 1.0} | lacking
    shares["train"] -= sum(shares.values()) - 1
    if shares["train"] <= 0:
        shown = " and ".join(f"{side} {share:g}" for side, share in lacking.items())
        raise DataError(f"the shares {shown} leave no images for training")
    pool = np.flatnonzero((official == "") | (official == "train"))
    split = official.astype("<U5")
    split[pool] = np.array(list(shares))[cut(index, ties, pool, list(shares.values()), rng)]
    return split


def turns(
    index: Index, ties: np.ndarray, folds: int, val_fraction: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Folds of equal size that test in turn, or validate in turn beside an official test set."""
    official = np.array(index.official)
    has_test = "test" in official
    pool = np.flatnonzero(official != "test")
    there = len(np.unique(ties[pool]))
    if 0 < there < folds:
        where = " outside of the official test set" if has_test else ""
        raise DataError(f"--folds {folds}, but there are only {there} {unit_name(index, 'groups')}{where}")
    parts = cut(index, ties, pool, [1 / folds] * folds, rng)
    result = []
    for k in range(folds):
        split = official.astype("<U5")
        held, rest = pool[parts == k], pool[parts != k]
        split[rest], split[held] = "train", "val" if has_test else "test"
        if not has_test:
            validates = cut(index, ties, rest, [1 - val_fraction, val_fraction], rng) == 1
            split[rest[validates]] = "val"
        result.append(split)
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
    """N names of what is resampled as one: the group, and for groups that share byte-identical images, which
    are not independent, the first of them. Where the metric is a mean over videos, a video stays one of its
    own."""
    if index.unit_score == "video":
        return index.groups
    first: dict[int, str] = {}
    tied = tied_groups(index.groups, identical).tolist()
    return [first.setdefault(number, group) for number, group in zip(tied, index.groups, strict=True)]


def strata(index: Index) -> np.ndarray:
    """(N, C) 0/1: the class of each image, or its labels and "none of them"."""
    if index.task == "multiclass":
        return np.eye(len(index.classes))[index.labels]
    known = np.nan_to_num(index.labels)
    return np.column_stack([known, known.sum(axis=1) == 0]).astype(float)


def cut(index: Index, ties: np.ndarray, pool: np.ndarray, shares: list[float], rng: np.random.Generator) -> np.ndarray:
    """Part number (0..len(shares)-1) of each image of the pool; whole groups only, ties: their numbers.

    Groups go, those with the rarest class first and larger ones before smaller ones, to the part whose counts
    per class they bring closest to its share. The distance is chi-square's, relative to the share: all parts
    fill at one pace, so that large groups do not all end in the largest part. A class with as many groups
    left as parts that lack it goes first to those parts."""
    if len(shares) == 1 or not len(pool):
        return np.zeros(len(pool), dtype=int)
    _, group = np.unique(ties[pool], return_inverse=True)
    classes = strata(index)[pool]
    counts = np.zeros((group.max() + 1, classes.shape[1]))
    np.add.at(counts, group, classes)
    present = counts > 0
    groups_with = present.sum(axis=0)
    rarity = np.where(present, groups_with, len(counts) + 1).min(axis=1)
    order = np.lexsort((rng.random(len(counts)), -counts.sum(axis=1), rarity))
    totals = np.maximum(counts.sum(axis=0), 1)
    # From here on in plain floats: tens of thousands of groups have a class or two each.
    held = [[] for _ in range(len(counts))]  # of each group (class, share of the class's images)
    of_group, of_class = (axis.tolist() for axis in np.nonzero(present))
    for g, c in zip(of_group, of_class, strict=True):
        held[g].append((c, float(counts[g, c] / totals[c])))
    have = [[0.0] * counts.shape[1] for _ in shares]
    lacking = [len(have)] * counts.shape[1]  # parts without the class
    left, part = groups_with.tolist(), np.zeros(len(counts), dtype=int)
    shares = [max(share, 1e-9) for share in shares]
    for g in order.tolist():
        scarce = [c for c, _ in held[g] if left[c] <= lacking[c]]
        best, least = 0, np.inf
        for k, share in enumerate(shares):
            cost = -1e9 * sum(have[k][c] == 0 for c in scarce) if scarce else 0.0
            for c, f in held[g]:
                cost += f * (f + 2 * (have[k][c] - share)) / share
            if cost < least:
                best, least = k, cost
        part[g] = best
        for c, f in held[g]:
            lacking[c] -= have[best][c] == 0
            have[best][c] += f
            left[c] -= 1
    return part[group]


def check_split(index: Index, split: np.ndarray, where: str = "", complete: bool = True) -> None:
    """DataError where a group is in two splits, or a class (multiclass) or any image is missing from one.
    complete False: a split without any image is not missed, it is still to be cut."""
    place = f"{index.name}{', ' + where if where else ''}"
    if index.task == "multiclass" and len(index.classes) < 2:
        only = listing(index.classes)
        raise DataError(f"{place}: {only} is the only class; there is nothing to tell apart")
    sides = defaultdict(set)
    for group, side in zip(index.groups, split.tolist(), strict=True):
        sides[group].add(side)
    if torn := [f"{g} ({' and '.join(sorted(s))})" for g, s in sides.items() if len(s) > 1]:
        many = f"{len(torn)} {index.group_kind}s are in two splits: {listing(torn)}"
        raise DataError(f"{place}: {many}{torn_by_spelling(index, split)}")
    for side in SPLITS:
        rows = np.flatnonzero(split == side)
        if not len(rows) and complete:
            raise DataError(f"{place}: no image is in {side}; {len(sides)} {index.group_kind}s in all")
        if len(rows) and index.task == "multiclass":
            refuse_lacking_class(index, rows, side, place)


def refuse_lacking_class(index: Index, rows: np.ndarray, side: str, place: str) -> None:
    """DataError where a class has none of these rows, the images of one side."""
    lacking = np.setdiff1d(np.arange(len(index.classes)), index.labels[rows])
    if not len(lacking):
        return
    groups = np.array(index.groups)
    names = [index.classes[c] for c in lacking]
    first = f"{names[0]}: {len(np.unique(groups[index.labels == lacking[0]]))}"
    first += f" and {len(names) - 1} more" if len(names) > 1 else ""
    absent = f"class {listing(names)} is absent from {side} ({first} {index.group_kind}s in all)"
    way_out = "merge classes, add data, or change the split"
    raise DataError(f"{place}: {absent}; each split needs one: {way_out}")


def torn_by_spelling(index: Index, split: np.ndarray) -> str:
    """What check_split adds where groups are in two splits only because one_spelling joined their ids: a
    given split that keeps one spelling here and the other there. "" where there are none."""
    found = defaultdict(lambda: defaultdict(set))
    for group, spelt, side in zip(index.groups, index.spelt or index.groups, split.tolist(), strict=True):
        found[group][spelt].add(side)
    joined = []
    for ways in found.values():
        if all(len(sides) == 1 for sides in ways.values()) and len(set().union(*ways.values())) > 1:
            joined.append(" = ".join(f"{spelt!r} in {min(sides)}" for spelt, sides in ways.items()))
    if not joined:
        return ""
    kind, one_each = index.group_kind, "one spelling and one split in the table or file names"
    way_out = f"give each {kind} {one_each}, or pass --exact-ids if they are different {kind}s"
    return f"; {len(joined)} of them as two spellings of one id ({listing(joined)}): {way_out}"


def write_splits(file: Path, index: Index, folds: list[np.ndarray]) -> Path:
    """image,group,label,split,fold: a row per image and fold, to be read, edited and handed back. Returns the
    file: name.csv, or name-2.csv and so on where that is there with other content, which may have been
    edited."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["image", "group", "label", "split", "fold"])
    for k, split in enumerate(folds):
        for i, (path, group, side) in enumerate(zip(index.paths, index.groups, split, strict=True)):
            writer.writerow([*map(runs.as_text, (path, group, index.label_text(i))), side, k])
    content = out.getvalue().encode("utf-8", "backslashreplace")
    written, number = file, 1
    while written.exists():
        if written.read_bytes() == content:
            return written
        number += 1
        written = file.with_name(f"{file.stem}-{number}{file.suffix}")
    runs.write_atomically(written, content)
    return written


def read_splits(file: Path, index: Index) -> list[np.ndarray]:
    """The folds of a splits.csv. An image with a blank split is left out ("") of that fold. Rows are matched
    by image; their group column is for the reader: which images are one group is the index's to say, and a
    file that puts a group on two sides is refused."""
    file = Path(file)
    if not file.is_file():
        what = "is a folder, a pipe or a device" if file.exists() else "no such file"
        raise DataError(f"--splits-file {file}: {what}")
    header, rows = read_table(file)
    rows = [{name: runs.from_text(value) for name, value in row.items()} for row in rows]
    if absent := [c for c in ("image", "split") if c not in header]:
        raise DataError(f"{file}: no column {listing(absent)}; its columns are {listing(header, most=12)}")
    if not rows:
        raise DataError(f"{file}: no rows below the header, so no image is left; a row an image and fold is needed")
    row_of = {path: i for i, path in enumerate(index.paths)}
    unknown = [row["image"] for row in rows if row["image"] not in row_of]
    refuse(file, unknown, f"images are not in {index.name}")
    known = {"", *SPLIT_NAMES}
    wrong = [f"{row['image']}: {row['split']!r}" for row in rows if row["split"].lower() not in known]
    if wrong:
        many = f"{len(wrong)} rows are not: {listing(wrong)}"
        raise DataError(f"{file}: the split must be train, val or test; {many}")
    if "label" in header:
        said = [(row, index.label_text(row_of[row["image"]])) for row in rows]
        differ = [(row, label) for row, label in said if label_parts(row["label"]) != label_parts(label)]
        shown = [f"{row['image']}: {row['label']!r}, not {label!r}" for row, label in differ]
        refuse(file, shown, f"labels differ from those of {index.name}")
    of_fold = defaultdict(list)
    for row in rows:
        of_fold[row.get("fold", "0")].append(row)
    return [read_fold(file, index, row_of, k, of_fold[k]) for k in sorted(of_fold, key=natural)]


def read_fold(file: Path, index: Index, row_of: dict[str, int], fold: str, rows: list[dict]) -> np.ndarray:
    """One fold of a splits.csv, checked."""
    images = [row["image"] for row in rows]
    refuse(file, duplicates(images), f"images are more than once in fold {fold}")
    missing = sorted(row_of.keys() - set(images))
    refuse(file, missing, f"images of {index.name} are not in fold {fold}")
    split = np.full(len(index), "", dtype="<U5")
    for row in rows:
        split[row_of[row["image"]]] = SPLIT_NAMES.get(row["split"].lower(), "")
    used = np.flatnonzero(split != "")
    if not len(used):
        raise DataError(f"{file}, fold {fold}: the split is blank for every image, so none is left")
    check_split(index.keep(used), split[used], f"{file}, fold {fold}")
    return split


def label_parts(text: str) -> set[str]:
    """Of "b | a" {"a", "b"}: the order of several labels says nothing."""
    return {part.strip() for part in text.split("|")} - {""}


def nested_split(
    index: Index, outer: np.ndarray, identical: list[list[int]] = (), *, seed: int = 0, val_fraction: float = 0.15
) -> np.ndarray:
    """The split that tunes within one fold: its training images alone, cut into "train" and "val" by group
    and stratified by label; every other image is "". No image that validates or scores the fold takes part.
    outer: the fold, N strings. Returns N strings; check_nested proves it."""
    pool = np.flatnonzero(outer == "train")
    inner = np.full(len(outer), "", dtype="<U5")
    ties, rng = tied_groups(index.groups, identical), np.random.default_rng([seed, 1])
    parts = cut(index, ties, pool, [1 - val_fraction, val_fraction], rng)
    inner[pool] = np.array(["train", "val"])[parts]
    return inner


def check_nested(index: Index, outer: np.ndarray, inner: np.ndarray) -> None:
    """DataError where tuning would see what the fold is judged by: an image, or another of the same group,
    that validates or tests the fold; or where tuning's own train and val share a group or lack a class."""
    where = f"{index.name}, tuning"
    groups, used = np.array(index.groups), inner != ""
    strange = np.array(index.paths)[used & (outer != "train")]
    refuse(where, strange, "images are not training images of the fold")
    judged = np.isin(groups, groups[np.isin(outer, ("val", "test"))])
    both = np.unique(groups[used & judged])
    refuse(where, both, f"{index.group_kind}s also validate or test the fold")
    kept = np.flatnonzero(used)
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


# ---- the data check ----


CHECK_COLUMNS = ("table", "split", "class", "images", "groups", "units", "official", "note")


def check_data(
    index: Index,
    folds: list[np.ndarray] = (),
    *,
    bad: Iterable[tuple[int, str]] = (),
    identical: Iterable[list[int]] = (),
    found: str = "",
    near: Callable[[np.ndarray], list[tuple[int, int, float]]] = lambda split: [],
    warnings: Iterable[str] = (),
    problems: Iterable[str] = (),
) -> tuple[list[dict[str, str | int]], list[str], list[str]]:
    """What --check-data says: (rows, problems, warnings). A problem must be fixed, a warning is for a person
    to judge.

    rows have the columns of CHECK_COLUMNS: counts per split and class as the archive has them, beside the
    official counts of a full copy, and per fold as they will be used; then problems, warnings and every
    unreadable image.
    folds: of make_splits; without them the official splits are checked. bad, identical, found: of Pixels,
    warnings: its remarks. near: the images that are nearly one of another side, as images.near_copies has them.
    problems: what make_splits said where it gave no folds; they come first, and once."""
    archive = np.array(index.official)
    counted, differences = beside_official(index, count_rows(index, archive, "archive"))
    rows = [{"table": "images", "note": found}] if found else []
    rows += counted
    for k, split in enumerate(folds):
        rows += count_rows(index, split, f"fold {k}")
    problems = list(dict.fromkeys(problems))
    said = {problem.partition(": ")[2] for problem in problems}  # without the place
    checked = [(f"fold {k}", split) for k, split in enumerate(folds)] or [("official split", archive)]
    for where, split in checked:
        used = np.flatnonzero(split != "")
        try:
            check_split(index.keep(used), split[used], where, complete=bool(len(folds)))
        except DataError as error:
            problems += [str(error)] if str(error).partition(": ")[2] not in said else []
    unreadable = [f"{index.paths[i]} ({reason})" for i, reason in bad]
    if unreadable:
        many = f"{len(unreadable)} of {len(index)} images cannot be read: {listing(unreadable)}"
        problems.append(f"{index.name}: {many}; fix them or give --skip-bad")
    identical, leaks = list(identical), []
    for where, split in checked:
        spoilt, others = [], []
        for same in spanning(identical, split):
            (spoilt if {"train", "test"} <= {split[i] for i in same} else others).append(same)
        problems += copies_lines(index, where, split, spoilt, "train and test")
        leaks += copies_lines(index, where, split, others, "two splits")
        leaks += near_lines(index, where, split, near(split), identical)
    leaks += differing_copies(index, identical)
    warnings = [*index.warnings, *warnings, *differences, *leaks]
    for table, notes in (("problem", problems), ("warning", warnings), ("unreadable", unreadable)):
        rows += [{"table": table, "note": note} for note in notes]
    return [dict.fromkeys(CHECK_COLUMNS, "") | row for row in rows], problems, warnings


def beside_official(index: Index, rows: Iterable[dict]) -> tuple[list[dict], list[str]]:
    """(the rows with what a full copy counts beside them, warnings where that is another number)."""
    counted, warnings = [], []
    for row in rows:
        full = index.counts.get((row["split"], row["class"]), {})
        allowed = {what: n if isinstance(n, tuple) else (n,) for what, n in full.items()}
        shown = {what: " or ".join(map(str, numbers)) for what, numbers in allowed.items()}
        official = ", ".join(f"{text} {unit_name(index, what)}" for what, text in shown.items())
        counted.append(row | {"official": official})
        if differ := [what for what, numbers in allowed.items() if row[what] not in numbers]:
            here = ", ".join(f"{row[what]} {unit_name(index, what)}" for what in differ)
            part = f"{row['split']} {row['class']}".strip()
            has = ", ".join(shown[what] for what in differ)
            warnings.append(f"{index.name}, {part}: {here}; a full copy has {has}")
    return counted, warnings


def shown_sets(index: Index, sets: Iterable[list[int]], value: Callable[[int], str]) -> str:
    """'a.png (train) = b.png (test), ...' of sets of rows."""
    return listing(" = ".join(f"{index.paths[i]} ({value(i)})" for i in same[:3]) for same in sets)


def copies_lines(index: Index, where: str, split: np.ndarray, sets: list[list[int]], between: str) -> list[str]:
    """A line for byte-identical images that span splits, if any."""
    if not sets:
        return []
    one_of_each = [list({split[i]: i for i in reversed(same) if split[i] != ""}.values()) for same in sets]
    names = shown_sets(index, map(sorted, one_of_each), lambda i: split[i])
    many = f"{len(sets)} sets of byte-identical images are in {between}: {names}"
    return [f"{index.name}, {where}: {many}; --drop-duplicates takes the copies out of training"]


def near_lines(
    index: Index, where: str, split: np.ndarray, near: list[tuple[int, int, float]], identical: list[list[int]]
) -> list[str]:
    """A line for images that are nearly one of another split, apart from byte-identical ones, if any."""
    number = {i: k for k, same in enumerate(identical) for i in same}
    found = [(i, j, r) for i, j, r in near if number.get(i, i - len(index)) != number.get(j, j - len(index))]
    if not found:
        return []
    found.sort(key=lambda pair: -pair[2])
    tested = sum(split[i] == "test" for i, _, _ in found)
    parts = [f"{n} in {side}" for side, n in (("test", tested), ("val", len(found) - tested)) if n]
    names = listing(f"{index.paths[i]} ({split[i]}) ~ {index.paths[j]} ({split[j]}) {r:.3f}" for i, j, r in found)
    many = f"{len(found)} images ({', '.join(parts)}) look like one in another split"
    by = "correlation over 0.99 at 16 x 16 pixels, the highest first"
    look = "look at them: copies of one picture, or views of one patient, in two splits make results too good"
    return [f"{index.name}, {where}: {many} ({by}): {names}; {look}"]


def differing_copies(index: Index, identical: list[list[int]]) -> list[str]:
    """A line for byte-identical images of two labels, and one of two groups, if any."""
    values, lines = {"labels": index.label_text}, []
    if index.group_kind != "image":
        values[unit_name(index, "groups")] = lambda i: index.groups[i]
    for what, value in values.items():
        if differ := [same for same in identical if len({value(i) for i in same}) > 1]:
            many = f"{len(differ)} sets of byte-identical images have different {what}"
            lines.append(f"{index.name}: {many}: {shown_sets(index, differ, value)}")
    return lines


def count_rows(index: Index, split: np.ndarray, table: str) -> Iterable[dict[str, str | int]]:
    """Images, groups and units of each split and class, and of all. A multilabel class counts where it is
    1."""
    groups = np.unique(np.array(index.groups), return_inverse=True)[1]
    units = groups * 0 if index.units is None else np.unique(np.array(index.units), return_inverse=True)[1]
    positive = index.labels == 1 if index.task == "multilabel" else strata(index) == 1
    for side in ["all", *(side for side in SPLITS if side in split)]:
        here = np.full(len(index), True) if side == "all" else split == side
        for c, name in enumerate(["", *index.classes]):
            rows = np.flatnonzero(here & positive[:, c - 1]) if name else np.flatnonzero(here)
            yield {
                "table": table,
                "split": side,
                "class": name,
                "images": len(rows),
                "groups": "" if index.group_kind == "image" else len(np.unique(groups[rows])),
                "units": "" if index.units is None else len(np.unique(units[rows])),
            }


def group_lines(index: Index) -> list[str]:
    """What shows whether the groups are right: some images with theirs, and the largest. [] without groups."""
    if index.group_kind == "image":
        return []
    kinds, first = unit_name(index, "groups"), {}
    for path, group in zip(index.paths, index.groups, strict=True):
        first.setdefault(group, path)
    samples = "; ".join(f"{path} is of {group!r}" for group, path in list(first.items())[:5])
    largest = ", ".join(f"{group!r} {n}" for group, n in Counter(index.groups).most_common(5))
    return [f"{len(first)} {kinds}: {samples}", f"images of the largest {kinds}: {largest}; of {len(index)} in all"]


def unit_name(index: Index, what: str) -> str:
    """'patients', 'studies' for "groups", "units"."""
    kind = {"images": "image", "groups": index.group_kind, "units": index.unit_kind}[what]
    return kind[:-1] + "ies" if kind.endswith("y") else kind + "s"
