"""A process that ends when the one that started it does."""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # of prctl(2)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; end now if the parent has ended already.

    PIPELINE_PARENT is the parent's pid; from now on it is this process's, for the ones that this process starts.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(os.environ["PIPELINE_PARENT"]):
        sys.exit("the process that started this one has ended")
    os.environ["PIPELINE_PARENT"] = str(os.getpid())
