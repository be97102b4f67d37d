"""A stage ends with the process that runs it: a second run would write the same outputs.

All that a stage writes appears by rename, so it may be killed at any moment.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from stages.core.errors import UserError

PR_SET_PDEATHSIG = 1
SHELLS = ("sh", "dash", "bash", "zsh", "fish", "ksh")
LOOK_SECS = 0.2


def tie_to_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent() -> None:
    """Where DVC or torchrun is the parent, be killed when it ends (Linux only).

    Most shells become the command that DVC hands them; where one stays in between, its own parent is watched.
    PIPELINE_PARENT, if set, tells DVC's pid to a stage that starts when DVC is gone already.
    """
    if not sys.platform.startswith("linux") or not os.environ.keys() & {"DVC_STAGE", "TORCHELASTIC_RUN_ID"}:
        return
    tie_to_parent()
    parent = os.getppid()
    ancestors = [parent, parent_of(parent)] if name_of(parent) in SHELLS else [parent]
    if (wanted := os.environ.pop("PIPELINE_PARENT", None)) and int(wanted) not in ancestors:
        raise UserError("the process that started this stage has ended")
    if len(ancestors) > 1:
        threading.Thread(target=_follow, args=ancestors, daemon=True).start()


def _follow(shell: int, its_parent: int) -> None:
    while parent_of(shell) == its_parent:
        time.sleep(LOOK_SECS)
    os.kill(os.getpid(), signal.SIGKILL)


def parent_of(pid: int) -> int:
    """The pid of a process's parent, 0 if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


def name_of(pid: int) -> str:
    """What a process runs, up to 15 letters; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""
