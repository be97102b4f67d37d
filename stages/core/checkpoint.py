"""Training states on disk; a training that resumes from one ends like an uninterrupted one."""

import time
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.core import code
from stages.core.artifact import checked, flush, read_with_checksum, sha256, with_checksum, write_atomically
from stages.core.distributed import rank
from stages.core.scratch import set_aside

STATE = "state.safetensors"


def load_tensors(artifact: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file in an artifact, on the CPU, after its bytes were compared with the hash."""
    return load_file(checked(artifact, name))


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any device as .safetensors."""
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


class Checkpoint:
    """Models, their optimizers and averages, saved in one folder; a save is `due` every `every_secs` seconds."""

    def __init__(
        self,
        folder: Path,
        every_secs: float,
        models: dict[str, nn.Module],
        optimizers: dict[str, Optimizer],
        averages: dict[str, Any],
    ):
        self.folder, self.every_secs, self.saved_at = folder, every_secs, time.monotonic()
        self.models, self.optimizers, self.averages = models, optimizers, averages

    def due(self) -> bool:
        """True if the last save, or the start, is at least `every_secs` ago."""
        return time.monotonic() - self.saved_at >= self.every_secs

    def save(self, facts: dict[str, Any]) -> None:
        """Write a new state beside the old one, then point to it: a kill at any moment leaves one whole state.

        `latest.json` holds the hash of the state and of the pictures that the training has drawn into the folder.
        Then stop with a `UserError` if code, params or inputs have changed since the start.
        """
        name = f"{facts['step']:09d}-{STATE}"
        save_tensors(self.folder / name, self._tensors())
        flush(self.folder / name)
        files = {path.name: sha256(path) for path in (self.folder / name, *sorted(self.folder.glob("*.png")))}
        write_atomically(self.folder / "latest.json", with_checksum({"state": name, "files": files, **facts}))
        self.saved_at = time.monotonic()
        for path in self.folder.glob(f"*-{STATE}"):
            if path.name != name:
                path.unlink()
        code.check()

    def load(self) -> dict[str, Any] | None:
        """Restore the newest state into the models, optimizers and averages; its facts, or None at the start.

        A checkpoint of which a file is gone or damaged is set aside, and the training begins anew.
        """
        latest = self.folder / "latest.json"
        if not latest.is_file():
            return None
        facts = read_with_checksum(latest)
        files: dict[str, str] = facts.pop("files") if facts else {}
        if facts is None or not all(self._is_intact(*one) for one in files.items()):
            if rank() == 0:
                set_aside([latest, *self.folder.glob(f"*-{STATE}")], "and the training begins anew")
            return None
        self._restore(load_file(self.folder / facts.pop("state")))
        if rank() == 0:
            for picture in set(self.folder.glob("*.png")) - {self.folder / name for name in files}:
                picture.unlink()  # of a later step, which this training has yet to reach
        print(f"resuming at step {facts['step']}", flush=True)
        return facts

    def _is_intact(self, name: str, expected: str) -> bool:
        try:
            return sha256(self.folder / name) == expected
        except OSError:  # gone, perhaps set aside by rank 0
            return False

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {
            f"model.{name}.{key}": t for name, model in self.models.items() for key, t in model.state_dict().items()
        }
        tensors |= {f"ema.{name}.{key}": t for name, ema in self.averages.items() for key, t in ema.tensors.items()}
        for name, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{name}.{index}.{key}": value for key, value in state.items()}
        return tensors

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        def below(prefix: str) -> dict[str, Tensor]:
            return {key[len(prefix) :]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}

        for name, model in self.models.items():
            model.load_state_dict(below(f"model.{name}."))
        for name, ema in self.averages.items():
            for key, tensor in below(f"ema.{name}.").items():
                ema.tensors[key].copy_(tensor)
        for name, optimizer in self.optimizers.items():
            state: dict[int, dict[str, Tensor]] = {}
            for key, tensor in below(f"optimizer.{name}.").items():
                index, field = key.split(".")
                state.setdefault(int(index), {})[field] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
