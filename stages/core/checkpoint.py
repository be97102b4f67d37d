"""Training state on disk: safetensors and JSON, written atomically; resuming equals never having stopped."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stages.core.artefact import flush, save_tensors, write_atomically

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer

    from stages.core.schedule import Ema

STATE = "state.safetensors"


class Checkpoint:
    """Models, their optimizers and averages in one folder; saved at most every `every_secs` seconds."""

    def __init__(
        self,
        folder: Path,
        every_secs: float,
        models: dict[str, nn.Module],
        optimizers: dict[str, Optimizer],
        averages: dict[str, Ema],
    ):
        self.folder, self.every_secs, self.saved_at = folder, every_secs, time.monotonic()
        self.models, self.optimizers, self.averages = models, optimizers, averages

    def due(self) -> bool:
        """Whether the last save, or the start, is at least `every_secs` ago."""
        return time.monotonic() - self.saved_at >= self.every_secs

    def save(self, facts: dict[str, Any]) -> None:
        """Write a new state beside the old one, then point to it: a kill at any moment leaves one whole state."""
        name = f"{facts['step']:09d}-{STATE}"
        save_tensors(self.folder / name, self._tensors())
        flush(self.folder / name)
        write_atomically(self.folder / "latest.json", json.dumps({"state": name, **facts}).encode())
        self.saved_at = time.monotonic()
        for path in self.folder.glob(f"*-{STATE}"):
            if path.name != name:
                path.unlink()

    def load(self) -> dict[str, Any] | None:
        """Restore the newest state into the models, optimizers and averages; its facts, or None at the start."""
        from safetensors.torch import load_file

        latest = self.folder / "latest.json"
        if not latest.is_file():
            return None
        facts = json.loads(latest.read_text())
        self._restore(load_file(self.folder / facts.pop("state")))
        print(f"resuming at step {facts['step']}", flush=True)
        return facts

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
