"""DVC's command line in a process that dies with its parent.

Run: PIPELINE_PARENT=PID python -m pipeline.dvc_process [--force] STAGE      as pipeline/repro.py does
"""

import ctypes
import os
import signal
import sys

from dvc.cli import main as dvc

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; end now if the parent has ended already."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ["PIPELINE_PARENT"]):
        sys.exit("the process that started this stage has ended")


def main() -> None:
    die_with_parent()
    os.environ["PIPELINE_PARENT"] = str(os.getpid())
    sys.exit(dvc(["--wait-for-lock", "repro", "--single-item", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
