"""The GPUs of this machine, assigned to stages by number."""

import os
import shutil
import subprocess

ANSWER_SECS = 30


class Gpus:
    """How many more stages each GPU can take. A stage that asks for more GPUs than exist gets all; without any, every
    stage runs on the CPU."""

    def __init__(self, ids: list[str], per_gpu: int = 1):
        self.free, self.slots = dict.fromkeys(ids, per_gpu), per_gpu * len(ids)

    @classmethod
    def detect(cls, per_gpu: int) -> "Gpus":
        """Those that CUDA_VISIBLE_DEVICES allows, else all that nvidia-smi lists."""
        if "CUDA_VISIBLE_DEVICES" in os.environ:
            names = os.environ["CUDA_VISIBLE_DEVICES"].split(",")
            return cls([name for name in names if name and name != "-1"], per_gpu)
        if not shutil.which("nvidia-smi"):
            return cls([])
        query = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=ANSWER_SECS)
        except subprocess.TimeoutExpired:
            return cls([])
        return cls(done.stdout.split() if done.returncode == 0 else [], per_gpu)  # it prints errors to stdout, too

    def available(self, count: int) -> bool:
        """Whether a stage that asks for `count` GPUs can have them now."""
        return sum(free > 0 for free in self.free.values()) >= min(count, len(self.free))

    def acquire(self, count: int) -> list[str]:
        """The ids of `count` GPUs, those with the most room first; fewer if the machine has fewer."""
        taken = sorted(self.free, key=lambda name: -self.free[name])[:count]
        self.free.update({name: self.free[name] - 1 for name in taken})
        return taken

    def release(self, ids: list[str]) -> None:
        """Give back what `acquire` gave."""
        self.free.update({name: self.free[name] + 1 for name in ids})

    def env(self, ids: list[str]) -> dict[str, str]:
        """Environment of a stage on these GPUs, with one process on each; empty on a machine without GPUs."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(ids), "NPROC": str(max(1, len(ids)))} if self.free else {}
