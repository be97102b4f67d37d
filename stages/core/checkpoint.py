"""Training states on disk; a training that resumes from one ends like an uninterrupted one."""

import shutil
import time
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.optim import Optimizer

from stages.core import code
from stages.core.artifact import read_with_checksum, sha256, with_checksum, write_atomically
from stages.core.distributed import rank
from stages.core.hardware import barrier, check_agreement, decided, saving_group
from stages.core.scratch import set_aside

ALL = "training"  # the one key of a state: torch logs twice for each
LATEST = "latest.json"  # which state is whole, the hashes of its files, and facts of the training


class Checkpoint:
    """Models, their optimizers and averages, saved in one folder by torch.distributed.checkpoint.

    Each process writes its shards, in a thread, from copies; a training may resume with another number of processes.
    """

    def __init__(
        self,
        folder: Path,
        share: float,
        models: dict[str, nn.Module],
        optimizers: dict[str, Optimizer],
        averages: dict[str, Any],
    ):
        self.folder, self.share, self.models, self.optimizers = folder, share, models, optimizers
        self.averages = averages
        self.saved_at, self.cost = time.monotonic(), 0.0  # the end of the last save, and its seconds
        self.writer, self.pending = ThreadPoolExecutor(1), Future[None]()
        self.pending.set_result(None)

    def due(self, last: bool) -> bool:
        """True, in all processes, for the `last` step, and if one more save keeps all within their share of the time.

        The first step is saved, so that a disk without space or rights shows at once.
        """
        since = time.monotonic() - self.saved_at
        ready = self.share == 1 or (self.pending.done() and since * self.share >= self.cost * (1 - self.share))
        return decided(last or ready)

    def save(self, facts: dict[str, Any]) -> None:
        """Begin to write a new state beside the old one; a kill at any moment leaves one whole state.

        Then stop with a `UserError` if code, params or inputs have changed since the start.
        """
        self.finish()
        started, name = time.monotonic(), f"{facts['step']:09d}"
        writing = dcp.async_save({ALL: self._tensors()}, checkpoint_id=self.folder / name, process_group=saving_group())
        assert isinstance(writing, Future)
        pictures = sorted(self.folder.glob("*.png"))
        self.pending = self.writer.submit(self._publish, writing, name, pictures, facts, started)
        code.check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Let the last save finish, whatever ended the training."""
        self.finish()

    def finish(self) -> None:
        """Wait until the last save is complete; an error while writing is raised here."""
        self.pending.result()

    def _publish(
        self, writing: Future[Any], name: str, pictures: list[Path], facts: dict[str, Any], started: float
    ) -> None:
        """Point to a state once all processes have written it, then remove older ones.

        `latest.json` holds the hashes of the state and of the pictures that the training has drawn into the folder.
        """
        with plain_errors():
            writing.result()
        if rank() == 0:
            files = [*sorted((self.folder / name).iterdir()), *pictures]
            hashes = {path.relative_to(self.folder).as_posix(): sha256(path) for path in files}
            write_atomically(self.folder / LATEST, with_checksum({"state": name, "files": hashes, **facts}))
            self._remove_states(but=name)
        self.saved_at = time.monotonic()
        self.cost = self.saved_at - started

    def load(self) -> dict[str, Any] | None:
        """Restore the newest state into the models, optimizers and averages; its facts, or None at the start.

        A checkpoint of which a file is gone or damaged is set aside, and the training begins anew.
        """
        facts = self._latest()
        check_agreement("the checkpoint of a training", [self.folder.name, facts and facts["state"]])
        if facts is None:
            if rank() == 0:
                self._remove_states(but="")
            barrier()
            return None
        files, state = facts.pop("files"), facts.pop("state")
        self._restore(self.folder / state)
        if rank() == 0:
            self._remove_states(but=state)
            for picture in set(self.folder.glob("*.png")) - {self.folder / name for name in files}:
                picture.unlink()  # of a later step, which this training has yet to reach
        barrier()
        print(f"resuming at step {facts['step']}", flush=True)
        return facts

    def _latest(self) -> dict[str, Any] | None:
        """What latest.json says, if its files are intact; the first process looks, and sets damaged ones aside."""
        latest, whole = self.folder / LATEST, False
        if rank() == 0 and latest.is_file():
            facts = read_with_checksum(latest)
            whole = facts is not None and all(self._is_intact(*one) for one in facts["files"].items())
            if not whole:
                states = [path for path in self.folder.iterdir() if path.is_dir() and path.name.isdecimal()]
                set_aside([latest, *states], "and the training begins anew")
        return read_with_checksum(latest) if decided(whole) else None

    def _is_intact(self, name: str, expected: str) -> bool:
        try:
            return sha256(self.folder / name) == expected
        except OSError:  # gone
            return False

    def _remove_states(self, but: str) -> None:
        for path in self.folder.iterdir():
            if path.is_dir() and path.name.isdecimal() and path.name != but:
                shutil.rmtree(path)

    def _tensors(self) -> dict[str, Tensor]:
        """All tensors of the training by name; those of optimizers by the name of their parameter."""
        tensors = {
            f"model.{name}.{key}": t for name, model in self.models.items() for key, t in model.state_dict().items()
        }
        tensors |= {f"ema.{name}.{key}": t for name, ema in self.averages.items() for key, t in ema.tensors.items()}
        for name, optimizer in self.optimizers.items():
            for key, parameter in self.models[name].named_parameters():
                state = optimizer.state.get(parameter, {})
                tensors |= {f"optimizer.{name}.{key}.{field}": value for field, value in state.items()}
        return tensors

    def _restore(self, state: Path) -> None:
        """Read a state in place; each process reads its own shards of it."""
        saved = dcp.FileSystemReader(state).read_metadata().state_dict_metadata
        for name, optimizer in self.optimizers.items():
            for key, parameter in self.models[name].named_parameters():
                optimizer.state[parameter] = {
                    field: torch.zeros_like(parameter) if field != "step" else torch.zeros((), device=parameter.device)
                    for field in ("step", "exp_avg", "exp_avg_sq")
                    if f"{ALL}.optimizer.{name}.{key}.{field}" in saved
                }
        with plain_errors():
            dcp.load({ALL: self._tensors()}, checkpoint_id=state, process_group=saving_group())


@contextmanager
def plain_errors() -> Generator[None]:
    """Raise what stopped a process: CheckpointException is no Exception, so it would escape the stage's messages."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None
