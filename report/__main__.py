"""The report of a folder of runs, made anew: python -m report runs/ (as python ftcompare.py --report runs/
does)."""

from __future__ import annotations

import sys

from report.analysis import ReportError
from report.build import build, text, written


def main(arguments: list[str]) -> int:
    if arguments in (["-h"], ["--help"]):
        print(__doc__)
        return 0
    if len(arguments) != 1:
        print(f"report: give one folder of runs, not {len(arguments)}: python -m report runs/", file=sys.stderr)
        return 2
    sys.stdout.reconfigure(errors="replace")
    try:
        analysis = build(arguments[0])
    except (ReportError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 2
    print(f"{text(analysis)}\n\n{written(arguments[0])}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
