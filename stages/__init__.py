"""A stage that DVC started ends with it: asked of the kernel before anything is imported, which takes seconds.

Only for commands (`python -m stages.…`) below DVC or torchrun, on Linux. Importing the package elsewhere does nothing.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

CLAIMS = Path(".dvc/tmp/rwlock")  # the paths that DVC processes read and write, with their pids
PR_SET_PDEATHSIG = 1  # of prctl(2)
TRIES, POLL_SECS = 10, 0.2


def tie_to_parent() -> None:
    """Have the kernel kill this process when its parent ends (Linux only)."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def die_with_parent() -> None:
    """Where DVC or torchrun is the parent, be killed when it ends; end now if DVC has ended already.

    Most shells exec the command that DVC gives them. If a shell stays in between, the stage polls the shell's parent.
    """
    if not sys.platform.startswith("linux") or not os.environ.keys() & {"DVC_STAGE", "TORCHELASTIC_RUN_ID"}:
        return
    tie_to_parent()
    if "RANK" in os.environ:  # below torchrun, perhaps on another host than DVC
        return
    above, known = ancestors(), dvc_pids()
    dvc = next((pid for pid in above if pid in known), 0)
    if not dvc:
        sys.exit(f"error: {os.environ['DVC_STAGE']}: the DVC process that started this stage has ended")
    if dvc != above[0]:
        threading.Thread(target=_follow, args=(above[above.index(dvc) - 1], dvc), daemon=True).start()


def ancestors() -> list[int]:
    """The pids of this process's parent, its parent, and so on."""
    found = [os.getppid()]
    while parent := parent_of(found[-1]):
        found.append(parent)
    return found


def dvc_pids() -> set[int]:
    """The pid in PIPELINE_PARENT, else those of DVC's claims: DVC holds some while a command of its runs."""
    if parent := os.environ.get("PIPELINE_PARENT"):
        return {int(parent)}
    for _ in range(TRIES):  # DVC writes the file in place: for a moment it is not whole
        try:
            claims = json.loads(CLAIMS.read_bytes())
            readers = [claim for path in claims.get("read", {}).values() for claim in path]
            return {claim["pid"] for claim in [*claims.get("write", {}).values(), *readers]}
        except FileNotFoundError:
            return set()
        except ValueError:
            time.sleep(POLL_SECS)
    sys.exit(f"error: {CLAIMS}: not readable, so the DVC process above is unknown. Run `semtok doctor --fix`.")


def _follow(child: int, dvc: int) -> None:
    """Poll the parent of the process between DVC and this one."""
    while parent_of(child) == dvc:
        time.sleep(POLL_SECS)
    os.kill(os.getpid(), signal.SIGKILL)


def parent_of(pid: int) -> int:
    """The pid of a process's parent, 0 if there is no such process."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:  # it has ended, or /proc hides it
        return 0


def is_command() -> bool:
    """Whether `python -m stages.…` is importing this package to find its module."""
    return sys.argv[:1] == ["-m"] and any(word.startswith("stages.") for word in sys.orig_argv)


if is_command():
    die_with_parent()
