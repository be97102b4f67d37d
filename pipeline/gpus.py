"""The GPUs of this machine, handed out to stages by number."""

from __future__ import annotations

import os
import shutil
import subprocess

ANSWER_SECS = 30


class Gpus:
    """For how many more stages each GPU id has room. A stage that asks for more than there are gets all; without any,
    every stage runs on the CPU."""

    def __init__(self, ids: list[str], each: int = 1):
        self.room, self.slots = dict.fromkeys(ids, each), each * len(ids)

    @classmethod
    def found(cls, each: int) -> Gpus:
        """Those that CUDA_VISIBLE_DEVICES allows, else all that nvidia-smi lists."""
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
            return cls([name for name in names if name and name != "-1"], each)
        if not shutil.which("nvidia-smi"):
            return cls([])
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=ANSWER_SECS)
        except subprocess.TimeoutExpired:
            return cls([])
        return cls(done.stdout.split() if done.returncode == 0 else [], each)  # it prints its errors there, too

    def enough(self, wanted: int) -> bool:
        """Whether a stage that asks for `wanted` can have them now."""
        return sum(room > 0 for room in self.room.values()) >= min(wanted, len(self.room))

    def take(self, wanted: int) -> list[str]:
        """So many ids, those with the most room, fewer if the machine has fewer."""
        taken = sorted(self.room, key=lambda name: -self.room[name])[:wanted]
        self.room.update({name: self.room[name] - 1 for name in taken})
        return taken

    def give_back(self, ids: list[str]) -> None:
        """What `take` gave."""
        self.room.update({name: self.room[name] + 1 for name in ids})

    def env(self, ids: list[str]) -> dict[str, str]:
        """What tells a stage its GPUs, and to run one process on each; nothing on a machine without."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(ids), "NPROC": str(max(1, len(ids)))} if self.room else {}
