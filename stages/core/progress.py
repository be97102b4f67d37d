"""What a stage reports while it runs: a progress bar, events for `semtok run`, and a cost estimate before the work.

Events are JSON lines in the file $PIPELINE_EVENTS; without the variable nothing is written. Kinds and their fields:

    progress  name, done, total, unit, per_sec      at most once per second
    table     values {name: number}                 metrics of a network in training
    picture   name, png                             the file's bytes in base64
"""

import base64
import configparser
import errno
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path

from tqdm import tqdm

from stages.core import UserError
from stages.core.distributed import rank
from stages.core.scratch import SCRATCH

EVENT_SECS = 1.0
# Resident memory of a process on a CPU before its data: with torch, and with all that a training or an evaluation uses.
BASE_BYTES, LARGE_BASE_BYTES = 1_200_000_000, 1_400_000_000
FULL = re.compile(r"os error 28|No space left on device|\d+ requested and \d+ written")  # safetensors, torch, numpy


def emit_progress(name: str, done: int, total: int, unit: str, per_sec: float) -> None:
    """State of the loop `name`; `per_sec` is the rate of this process, without the work it resumed from."""
    _emit("progress", name=name, done=done, total=total, unit=unit, per_sec=round(per_sec, 4))


def emit_table(values: dict[str, float]) -> None:
    """The newest metrics."""
    _emit("table", values=values)


def emit_picture(name: str, png: bytes) -> None:
    """A picture that was just written."""
    _emit("picture", name=name, png=base64.b64encode(png).decode())


def _emit(kind: str, **fields: object) -> None:
    target = os.environ.get("PIPELINE_EVENTS")
    if target and rank() == 0:
        with open(target, "a") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")


class Bar(tqdm):
    """tqdm that also emits progress events: at most one per EVENT_SECS, and one at the end."""

    emitted_at = 0.0

    def update(self, n: float | None = 1) -> bool | None:
        """Advance by n."""
        shown = super().update(n)
        if self.disable:
            return shown
        facts = self.format_dict
        if facts["n"] >= facts["total"] or time.monotonic() - self.emitted_at >= EVENT_SECS:
            self.emitted_at = time.monotonic()
            rate = (facts["n"] - facts["initial"]) / max(facts["elapsed"], 1e-9)
            emit_progress(self.desc.rstrip(": "), facts["n"], facts["total"], facts["unit"].strip(), rate)
        return shown


def bar(name: str, total: int, done: int, unit: str) -> Bar:
    """A bar that refreshes ten times per second on a terminal and every ten seconds in a log; rank 0 only."""
    every = 0.1 if sys.stderr.isatty() else 10.0
    return Bar(desc=name, total=total, initial=done, unit=f" {unit}", mininterval=every, disable=rank() > 0)


def print_cost_estimate(stage: str, out: Path, counts: dict[str, int], disk_bytes: int, memory_bytes: int) -> None:
    """Print one line: what is made, where, size and memory. `UserError` if one of the disks has less space free."""
    for place in places_of(out):
        if (free := free_bytes(place)) < disk_bytes:
            raise UserError(
                f"{place}: {stage} needs about {format_bytes(disk_bytes)}, its file system has "
                f"{format_bytes(free)} free. Free some space (`dvc gc -w` drops unused versions, `semtok doctor --fix` "
                f"finished checkpoints), or ask for less in params.yaml."
            )
    if rank() == 0:
        what = ", ".join(f"{count:,} {noun}" for noun, count in counts.items())
        sizes = f"{format_bytes(disk_bytes)} on disk, peak memory about {format_bytes(memory_bytes)}"
        print(f"cost estimate: {stage}: {what} -> {out}: {sizes}; {format_bytes(free_bytes(out))} free", flush=True)


def places_of(out: Path) -> list[Path]:
    """Where an output takes space: itself, its unfinished work, DVC's copy. Reports have neither of the last two."""
    return [out] if out.parts[:1] == ("reports",) else [out, SCRATCH, dvc_cache()]


def dvc_cache() -> Path:
    """The folder of DVC's cache, from the files of settings that `dvc cache dir` and `dvc config` write."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    everywhere = os.environ.get("DVC_GLOBAL_CONFIG_DIR") or Path.home() / ".config/dvc"
    parser.read([Path(everywhere, "config"), ".dvc/config", ".dvc/config.local"])
    return Path(".dvc", parser.get("cache", "dir", fallback="cache"))


def free_bytes(path: Path) -> int:
    """Free space of the file system on which a file or folder is, or will be."""
    return shutil.disk_usage(next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())).free


def full_disk(error: BaseException) -> str:
    """What to do if a full file system is why the work ended; empty if it is not. Libraries wrap the error."""
    cause: BaseException | None = error
    while cause:
        if getattr(cause, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or FULL.search(str(cause)):
            name = getattr(cause, "filename", None)
            place = Path(name) if name else min((Path("data"), SCRATCH), key=free_bytes)
            free = format_bytes(free_bytes(place))
            return f"{place}: no space left: {free} free. Free some space, then run it again: it continues from here."
        cause = cause.__cause__ or cause.__context__
    return ""


def format_bytes(count: int) -> str:
    """A size in decimal units, with one decimal below 10: 5.5 MB, 79 GB."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.1f} {units[0]}" if size < 9.95 and units[0] != "B" else f"{size:.0f} {units[0]}"
