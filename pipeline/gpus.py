"""The GPUs of this machine, handed out to stages by number."""

from __future__ import annotations

import os
import shutil
import subprocess

ANSWER_SECS = 30


class Gpus:
    """Free GPU ids. A stage that asks for more than there are gets all; without any, every stage runs on the CPU."""

    def __init__(self, ids: list[str]):
        self.free, self.total = list(ids), len(ids)

    @classmethod
    def found(cls) -> Gpus:
        """Those that CUDA_VISIBLE_DEVICES allows, else all that nvidia-smi lists."""
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            return cls([name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name and name != "-1"])
        if not shutil.which("nvidia-smi"):
            return cls([])
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=ANSWER_SECS)
        except subprocess.TimeoutExpired:
            return cls([])
        return cls(done.stdout.split() if done.returncode == 0 else [])  # it prints its errors there, too

    def enough(self, wanted: int) -> bool:
        """Whether a stage that asks for `wanted` can have them now."""
        return len(self.free) >= min(wanted, self.total)

    def take(self, wanted: int) -> list[str]:
        """So many ids, fewer if the machine has fewer."""
        count = min(wanted, self.total)
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def give_back(self, ids: list[str]) -> None:
        """What `take` gave."""
        self.free += ids

    def env(self, ids: list[str]) -> dict[str, str]:
        """What tells a stage its GPUs, and to run one process on each; nothing on a machine without."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(ids), "NPROC": str(max(1, len(ids)))} if self.total else {}
