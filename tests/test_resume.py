"""A stage killed by SIGKILL and run again ends in the bytes of an undisturbed run.

Run: uv run pytest tests/test_resume.py
"""

import json
import shutil
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import toy as toys

from stages.core import scratch
from stages.data.reader import ImageSplit

OUTS = {
    "features": "data/features",
    "tokens": "data/tokens/kmeans",
    "decoder": "data/decoder/kmeans-onestep",
    "generator@kmeans-ar": "data/generator/kmeans-ar",
    "generator@kmeans-masked": "data/generator/kmeans-masked",
}
GAN = {"decoder": {"onestep": {"gan": {"weight": 0.5, "start_share": 0.25, "width": 8}}}}


def workplace(toy: Path, root: Path, checkpoint_share: float) -> Path:
    """The toy's inputs in a fresh folder."""
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    for out in OUTS.keys() - {"tokens"}:
        shutil.rmtree(root / OUTS[out], ignore_errors=True)
    toys.write_params(root, {**GAN, "machine": {"checkpoint_share": checkpoint_share}})
    return root


def half_done(command: str, root: Path) -> bool:
    """Some work waits in scratch: two shards, the part of train, or a checkpoint of the fifth step (with the GAN)."""
    if command == "features":
        return len([*root.glob("scratch/*/*/train-*.json")]) >= 2
    if command == "tokens":
        return any(root.glob("scratch/data-tokens-*/*/train-*.npy"))
    latest = next(root.glob("scratch/*/*/latest.json"), None)
    return latest is not None and json.loads(latest.read_text())["step"] >= 5


def kill_half_way(command: str, root: Path) -> None:
    with toys.process(command, root) as child:
        while not half_done(command, root):
            assert child.is_alive(), f"{command} ended before it could be killed"
            time.sleep(0.002)
        child.kill()
        child.join()
    assert not (root / OUTS[command]).exists(), "killed too late to prove anything"


@pytest.fixture(scope="module")
def undisturbed(toy, tmp_path_factory) -> Callable[[str], dict[str, str]]:
    """By command, the hashes of its output where nothing disturbed it; each runs once."""

    @cache
    def made(command: str) -> dict[str, str]:
        root = workplace(toy, tmp_path_factory.mktemp("undisturbed") / "toy", 0.02)
        shutil.rmtree(root / OUTS[command], ignore_errors=True)
        toys.run(command, root)
        return toys.hashes(root / OUTS[command])

    return made


def kept(root: Path) -> dict[str, int]:
    """When each finished shard in scratch was written."""
    return {path.name: path.stat().st_mtime_ns for path in root.glob("scratch/*/*/*") if path.suffix == ".tar"}


@pytest.mark.parametrize("command", [*OUTS])
def test_killed_and_rerun_equals_undisturbed(command, toy, undisturbed, tmp_path, capsys):
    killed, expected = workplace(toy, tmp_path / "toy", 1.0), undisturbed(command)
    shutil.rmtree(killed / OUTS[command], ignore_errors=True)
    kill_half_way(command, killed)
    before = kept(killed)
    capsys.readouterr()
    toys.run(command, killed)
    assert toys.hashes(killed / OUTS[command]) == expected
    [finished] = killed.glob("scratch/data-*/*")
    assert (finished / scratch.PUBLISHED).is_file(), "finished work waits until dvc.lock names the output"
    if command == "features":  # the shards are moved, not made again
        assert all((killed / OUTS[command] / name).stat().st_mtime_ns == time for name, time in before.items())
    elif command != "tokens":  # whose parts are joined to one file
        assert "resuming at step" in capsys.readouterr().out


def test_finished_parts_of_tokens_are_not_made_again(toy, tmp_path, monkeypatch):
    from stages.tokens import writer

    root, made, original = workplace(toy, tmp_path / "a", 1.0), [], writer.view_of
    shutil.rmtree(root / OUTS["tokens"])
    kill_half_way("tokens", root)
    monkeypatch.setattr(writer, "view_of", lambda *a: (made.append(a), original(*a))[1])
    toys.run("tokens", root)
    assert {view for _, _, view, _ in made} <= {0}, "val alone, which has no augmented views"


def test_an_image_is_decoded_once_for_all_its_views(toy, tmp_path, monkeypatch):
    root, read, original = workplace(toy, tmp_path / "a", 1.0), [], ImageSplit.read
    toys.write_params(root, {"tokens": {"views": 3}})
    monkeypatch.setattr(ImageSplit, "read", lambda split, numbers: (read.extend(numbers), original(split, numbers))[1])
    toys.run("tokens", root)
    facts = json.loads((root / "data/images/config.json").read_text())["splits"]
    assert len(read) == sum(facts[split]["images"] for split in ("train", "val"))


def test_changed_params_never_resume_foreign_work(toy, tmp_path, capsys):
    root = workplace(toy, tmp_path / "a", 1.0)
    kill_half_way("generator@kmeans-ar", root)
    toys.write_params(root, {"generator": {"ar": {"seed": 1}}})
    toys.run("generator@kmeans-ar", root)
    assert "resuming" not in capsys.readouterr().out and (root / OUTS["generator@kmeans-ar"]).exists()


@pytest.mark.parametrize(
    ("command", "file"),
    [("features", "train-*.tar"), ("tokens", "train-*.npy"), ("generator@kmeans-ar", "*.distcp")],
)
def test_work_damaged_after_the_kill_is_done_again(command, file, toy, undisturbed, tmp_path, capsys):
    killed, expected = workplace(toy, tmp_path / "toy", 1.0), undisturbed(command)
    shutil.rmtree(killed / OUTS[command], ignore_errors=True)
    kill_half_way(command, killed)
    for path in killed.glob(f"scratch/*/*/**/{file}"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    capsys.readouterr()
    toys.run(command, killed)
    assert toys.hashes(killed / OUTS[command]) == expected
    assert ": damaged since" in capsys.readouterr().out
