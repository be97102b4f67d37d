"""Unfinished work and training states on disk; a training that resumes from one ends like an uninterrupted one.

Unfinished work is in scratch/<output>/<key of params, inputs and code>/, ignored by git and DVC. A killed command that
runs again continues from its own folder; changed params, inputs or code give another key. The folder is removed once
dvc.lock records the finished output. Until then a second run publishes that output again without repeating the work.

What a killed stage left is compared with its sha256 before it is used. Damaged files are set aside, as *.damaged, and
their work is done again.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from stages.core import code
from stages.core.artifact import checked, digest, flush, read_with_checksum, sha256, with_checksum, write_atomically
from stages.core.distributed import rank
from stages.core.params import Section

SCRATCH, PUBLISHED = Path("scratch"), "published.json"
STATE, HASH_BYTES = "state.safetensors", 32


def load_tensors(artifact: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a .safetensors file in an artifact, on the CPU, after its bytes were compared with the hash."""
    return load_file(checked(artifact, name))


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write tensors of any device as .safetensors."""
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


@contextmanager
def scratch(out: Path, params: Section, inputs: list[Path], facts: str = "") -> Generator[Path]:
    """The folder of unfinished work on `out` with these params, inputs and code; the block publishes `out`.

    `facts` describes inputs that are not artifacts. Rank 0 records the end of the work, so the block of a parallel
    stage ends with a barrier. Finished work that dvc.lock records is removed here, by `semtok run` and by
    `semtok doctor --fix`.
    """
    task = SCRATCH / out.as_posix().strip("/").replace("/", "-")
    if rank() == 0:
        for folder in filter(accepted, task.glob("*")):
            shutil.rmtree(folder)
    folder = task / key_of(params, inputs, facts)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder
    if rank() == 0:
        write_atomically(folder / PUBLISHED, with_checksum({"out": out.as_posix(), "md5": dvc_hash(out)}))


def key_of(params: Section, inputs: list[Path], facts: str) -> str:
    """16 hex digits of the params, the input artifacts' digests, this command's code, and `facts`."""
    known = [params.model_dump(), {str(path): digest(path) for path in inputs}, code.fingerprint(), facts]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def accepted(folder: Path) -> bool:
    """True if the work in a folder of scratch/ was published and dvc.lock records exactly that output."""
    note = read_with_checksum(folder / PUBLISHED)
    if note is None or not Path("dvc.lock").is_file():
        return False
    stages = (YAML(typ="safe").load(Path("dvc.lock")) or {}).get("stages", {})
    outs = [out for stage in stages.values() for out in stage.get("outs", [])]
    return any(out["path"] == note["out"] and out.get("md5") == note["md5"] for out in outs)


def dvc_hash(folder: Path) -> str:
    """The md5 under which DVC 3 records a folder: that of the list of its files' md5s, sorted by path."""
    paths = sorted((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": md5(path), "relpath": name} for name, path in paths]
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def md5(path: Path) -> str:
    """Hex md5 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def write_hashed(path: Path, content: bytes) -> None:
    """Write a file of unfinished work atomically, with its sha256 behind the content: NumPy reads it all the same."""
    write_atomically(path, content + hashlib.sha256(content).digest())


def read_hashed(path: Path) -> bytes | None:
    """The content that `write_hashed` wrote; None if there is no file, or a damaged one, which is set aside."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    content, found = content[:-HASH_BYTES], content[-HASH_BYTES:]
    if hashlib.sha256(content).digest() == found:
        return content
    set_aside([path], "its work is done again")
    return None


def set_aside(paths: list[Path], then: str) -> None:
    """Rename damaged files of unfinished work, and say so."""
    print(f"{', '.join(map(str, paths))}: damaged since it was written: set aside, {then}", flush=True)
    for path in paths:
        os.replace(path, path.with_name(f"{path.name}.damaged"))


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
