"""What a stage is about to cost, printed before the work starts; a disk that is too small ends it there."""

import shutil
from pathlib import Path

from stages.core import distributed
from stages.core.errors import UserError


def print_plan(stage: str, out: Path, counts: dict[str, int], disk_bytes: int, memory_bytes: int) -> None:
    """One line: how many of what go where, how big. `UserError` if the file system of `out` has less space free."""
    folder = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(folder).free
    if free < disk_bytes:
        raise UserError(
            f"{out}: {stage} needs about {in_bytes(disk_bytes)}, its file system has {in_bytes(free)} free. "
            f"Free some space (`dvc gc -w` drops unused versions), or ask for less in params.yaml."
        )
    if distributed.rank() == 0:
        what = ", ".join(f"{count:,} {noun}" for noun, count in counts.items())
        sizes = f"{in_bytes(disk_bytes)} on disk, peak memory about {in_bytes(memory_bytes)}; {in_bytes(free)} free"
        print(f"plan: {stage}: {what} -> {out}: {sizes}", flush=True)


def in_bytes(count: int) -> str:
    """A size to two digits in decimal units, as disks are sold: 5.5 MB, 79 GB."""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB", "PB"]
    while size >= 999.5 and len(units) > 1:
        size /= 1000
        units.pop(0)
    return f"{size:.1f} {units[0]}" if size < 9.95 and units[0] != "B" else f"{size:.0f} {units[0]}"
