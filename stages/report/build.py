"""Build one self-contained page with all pictures, tables with their protocol, and curves below reports/.

Run:    dvc repro report
Expect: 5 s; reports/index.html, about 2 MB for digits. Open it in any browser; it loads nothing from elsewhere.
        reports/summary.json has few numbers, for `dvc exp show` and `dvc metrics show`.

Results of names that params.yaml no longer lists are left out; the page names them. It shows the params with which the
stages ran, from dvc.lock.
"""

import argparse
from pathlib import Path

from stages.core import code, runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reports", type=Path, required=True, help="folder with the stages' reports")
    parser.add_argument("--out", type=Path, required=True, help="page to write")
    parser.add_argument("--summary", type=Path, required=True, help="JSON file of a few numbers to write")
    parser.add_argument("--pipeline", type=Path, default=code.ROOT / "dvc.yaml", help="stages and their folders")
    parser.add_argument("--lock", type=Path, default=Path("dvc.lock"), help="DVC's record of the params")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    args = parser.parse_args()
    from stages.report.gather import read_reports
    from stages.report.page import write_page
    from stages.report.summary_file import write_summary

    reports = read_reports(args.reports, args.pipeline, args.params, args.lock)
    write_page(reports, args.out)
    write_summary(reports, args.summary)


if __name__ == "__main__":
    runtime.run(main)
