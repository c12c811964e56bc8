"""Files written whole or not at all: what runs, reports and figures share. Standard library only."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import math
import os
from pathlib import Path


def write_atomically(file: Path, data: str | bytes) -> None:
    """Readers, and a power cut, see the old content or the new one."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise NotADirectoryError(
            errno.ENOTDIR, "is a file, and should be a folder", str(file.parent)
        ) from None
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as out:
            out.write(data.encode() if isinstance(data, str) else data)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    except OSError as error:  # named after what was to be written
        raise OSError(error.errno, error.strerror or str(error), str(file)) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def to_json(value: object) -> str:
    """Strict JSON: nan and infinities, which JSON has not, become null."""

    def plain(x):
        if isinstance(x, float) and not math.isfinite(x):
            return None
        if isinstance(x, dict):
            return {str(k): plain(v) for k, v in x.items()}
        return [plain(v) for v in x] if isinstance(x, (list, tuple)) else x

    return json.dumps(plain(value), indent=1, allow_nan=False) + "\n"


def to_csv(rows: list[dict]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
