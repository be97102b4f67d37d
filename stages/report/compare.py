"""Show runs side by side: params that differ, numbers with their differences, pictures, in one self-contained page.

Run:    semtok compare EXP [EXP…] [--out FILE]        which writes what this command reads
Expect: 10 s; the page. Numbers of unlike protocols stand beside each other without a difference, with the reason.

FOLDER has a folder for each run, in order: run.json (name, commit, date, subject, missing pictures), dvc.yaml,
params.yaml, dvc.lock, reports/.
"""

import argparse
from pathlib import Path

from stages.core import runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, metavar="FOLDER", help="folder with a folder for each run")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    args = parser.parse_args()
    from stages.report.comparison import read_runs, write_comparison

    write_comparison(read_runs(args.runs), args.out)


if __name__ == "__main__":
    runtime.run(main)
