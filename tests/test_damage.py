"""A bit flipped, a file cut, emptied or gone: noticed with a way out, or without effect, whatever the file.

Run: pytest tests/test_damage.py
"""

import contextlib
import io
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import readers
import torch
import toy as toys

from stages.codebook import streaming
from stages.core import UserError, runtime
from stages.core.scratch import write_hashed
from stages.evaluate.extractors import open_extractors

COUNT = 500  # damages
COMMANDS = ("decoder", "generator@kmeans-ar", "samples@kmeans-ar", "classifier", "reference")
INPUTS = tuple(f"data/inputs/*/{name}" for name in ("fit", "load", "config.json"))
UNREAD = ("data/code/no_folder", "data/text/none", "data/captions/config.json", "data/decoder_code/*/*", *INPUTS)
UNREAD += ("data/inputs/*/weights", "data/weights/none")  # dependencies of DVC
SAME = (
    "scratch/*/*/*/*.distcp",
    "scratch/*/*/*/.metadata",
    "scratch/*/*/latest.json",
    "scratch/*/*/step-*",
)  # as scratch/training
DAMAGES = {
    "bit": lambda content, rng: flipped(content, int(rng.integers(8 * len(content)))),
    "cut": lambda content, rng: content[: rng.integers(len(content))],
    "empty": lambda content, rng: b"",
    "absent": lambda content, rng: None,
}
opened: set[str] | None = None  # files that Python code opens while this is a set


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def note(event: str, arguments: tuple) -> None:
    if event == "open" and opened is not None:
        opened.add(str(arguments[0]))


@pytest.fixture(scope="module")
def root(toy, tmp_path_factory) -> Path:
    """The toy with all artifacts, and with one of each kind of file in scratch/."""
    global opened
    root = tmp_path_factory.mktemp("damage") / "toy"
    shutil.copytree(toy, root)
    sys.addaudithook(note)
    opened = set()
    for command in COMMANDS:
        toys.run(command, root)
    read, opened = opened, None
    assert any(Path(path).match("data/images/config.json") for path in read)
    assert not [path for path in read for pattern in UNREAD if Path(path).match(pattern)]
    with contextlib.chdir(root), runtime.sole_writer("data/locked"):
        readers.train(Path("scratch/training"), 2)
        streaming.save(readers.state_of_kmeans(), Path("scratch/kmeans-0.safetensors"))
        write_hashed(
            Path("scratch/train-000000000.npy"), readers.npy(np.arange(60, dtype=np.float16).reshape(5, 1, 3, 4))
        )
        runtime.DURATIONS.mkdir()
        (runtime.DURATIONS / "one.json").write_text('{"stage": "one", "seconds": 1.5}')
        for path in Path("data").rglob("*.tar"):
            os.utime(path, (1e9, 1e9))  # old enough for scratch/verified
        readers.read_images(Path()), readers.read_features(Path())
        readers.ORIGINAL.update({path: path.read_bytes() for path in files()})
        readers.EXTRACTORS.update(
            open_extractors(Path("data/encoder"), Path("data/classifier"), torch.device("cpu"), {})
        )
    return root


def files() -> Iterator[Path]:
    """Every file that some code reads, and one checkpoint."""
    for path in sorted(path for top in ("data", "scratch") for path in Path(top).rglob("*") if path.is_file()):
        if not any(path.match(pattern) for pattern in (*UNREAD, *SAME)):
            yield path


def pattern_of(path: Path) -> str:
    found = [pattern for pattern in readers.READERS if path.match(pattern)]
    assert len(found) == 1, f"{path}: {len(found)} readers"
    return found[0]


def outcome(path: Path, reader, expected) -> str:
    """What reading leads to: an error with a way out, the same result as before, another one, or a traceback."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            found = readers.plain(reader(path))
    except UserError as error:
        return "refused" if "`dvc " in str(error) else f"no way out: {error}"
    except Exception as error:
        return f"traceback: {error!r}"
    return "no effect" if found == expected else "used silently"


def test_no_damage_is_used_silently_or_ends_in_a_traceback(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.setenv("DVC_STAGE", "one")  # stages compare data/code where DVC runs them
    by_pattern: dict[str, list[Path]] = {pattern: [] for pattern in readers.READERS}
    for path in readers.ORIGINAL:
        by_pattern[pattern_of(path)].append(path)
    assert all(by_pattern.values()), "every reader has a file"
    rng, counts, failures = np.random.default_rng(0), Counter(), []
    for number in range(COUNT):
        pattern, kind = [*by_pattern][number % len(by_pattern)], [*DAMAGES][number // 7 % len(DAMAGES)]
        path, reader = by_pattern[pattern][rng.integers(len(by_pattern[pattern]))], readers.READERS[pattern]
        original, expected = readers.ORIGINAL[path], readers.plain(reader(path))
        damaged = DAMAGES[kind](original, rng)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        said = outcome(path, reader, expected)
        path.write_bytes(original)
        counts[kind, said.partition(":")[0]] += 1
        if said not in ("refused", "no effect"):
            failures.append(f"{path} {kind}: {said}")
    with capsys.disabled():
        print(f"\n{COUNT} damages:", ", ".join(f"{kind} {said} {n}" for (kind, said), n in sorted(counts.items())))
    assert not failures, failures
