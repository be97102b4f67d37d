"""What a run needs before its first stage: repairs, the check of params.yaml, and the status of all stages.

Run: PIPELINE_PARENT=PID python -m pipeline.plan       as pipeline/turn.py does, which reads the answer from stdout
"""

import gc
import os
import pickle
import sys
import traceback

from pipeline import cleanup, lockfile, repair
from pipeline.dvc_status import read_status
from pipeline.errors import PipelineError
from pipeline.params_check import check_params
from pipeline.parent import die_with_parent
from pipeline.stale import Status


def plan() -> tuple[list[str], Status]:
    """Fix what a killed process has left, and ask; if a stage is to run, impossible params are refused before."""
    repaired = repair.fix_issues()
    lockfile.keep_copies()
    cleanup.remove_accepted()
    status = read_status()
    if status.affected() or status.unknown:
        check_params()
    return repaired, status


def main() -> None:
    die_with_parent()
    gc.disable()  # this process lives for a second
    answer, sys.stdout = os.fdopen(os.dup(sys.stdout.fileno()), "wb"), sys.stderr
    os.dup2(sys.stderr.fileno(), 1)  # what DVC may print
    found: object
    try:
        found = plan()
    except PipelineError as error:
        found = error
    except Exception:  # the run fails with it
        found = RuntimeError(traceback.format_exc())
    with answer:
        pickle.dump(found, answer)


if __name__ == "__main__":
    main()
