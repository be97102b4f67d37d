"""presets/quick.yaml on a folder of one's own: captions, two broken files, an embedded and a convolutional encoder.

Run: uv run pytest -m slow tests/test_quick.py        (3 minutes of two cores each)
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from toy import ROOT

pytestmark = pytest.mark.slow
CLASSES, IMAGES, BROKEN = ("ball", "bar", "box", "ring"), 60, (10, 33)
RESNET = ["weights.resnet=resnet18.safetensors", "encoder.name=resnet18", "encoder.weights=resnet", "encoder.img_px=64",
          "features.block=2", "features.final_norm=false", "probe.block=2", "probe.final_norm=false"]  # fmt: skip
SET = "import sys; from pipeline.cli import main; sys.argv = ['semtok', 'set', *sys.argv[1:]]; main()"


def draw(folder: Path, number: int, flat: bool) -> None:
    """A photograph-like picture of noise and one shape, with a caption beside it; some are cut or empty."""
    rng, kind = np.random.default_rng(number), CLASSES[number % len(CLASSES)]
    picture = Image.fromarray(rng.integers(0, 90, (96 + number % 7 * 8, 120, 3), dtype=np.uint8))
    (left, top), color = rng.integers(10, 45, 2).tolist(), tuple(rng.integers(120, 255, 3).tolist())
    box, brush = (left, top, left + 45, top + (10 if kind == "bar" else 45)), ImageDraw.Draw(picture)
    if kind in ("ball", "ring"):
        brush.ellipse(box, fill=color if kind == "ball" else None, outline=color, width=6)
    else:
        brush.rectangle(box, fill=color)
    path = folder / ("" if flat else kind) / f"{kind}{number}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    path.with_suffix(".txt").write_text(f"a {kind} of its own color\n")
    if number in BROKEN:
        path.write_bytes(path.read_bytes()[:300] if number == BROKEN[0] else b"")


@pytest.fixture
def clone(tmp_path):
    """The repository as it is committed, and a run of a command in it."""
    subprocess.run(["git", "clone", "-q", str(ROOT), "semtok"], cwd=tmp_path, check=True)
    env = {**os.environ, "DVC_NO_ANALYTICS": "1", "PATH": f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path / "semtok", env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    return tmp_path / "semtok", run


@pytest.mark.parametrize(
    ("flat", "encoder"), [(False, []), (False, RESNET), (True, [])], ids=["classes", "cnn", "flat"]
)
def test_the_whole_line_runs_on_sixty_pictures_and_then_has_nothing_to_do(clone, tmp_path, flat, encoder):
    root, run = clone
    for number in range(IMAGES):
        draw(tmp_path / "pictures", number, flat)
    if encoder:
        run("-W", "ignore", "-c", "import timm, safetensors.torch as st\n"
            "st.save_file(timm.create_model('resnet18').state_dict(), 'resnet18.safetensors')")  # fmt: skip
    run("-c", SET, "@presets/quick.yaml", "data.source=folder", f"data.folder={tmp_path / 'pictures'}", *encoder)
    run("-m", "dvc", "repro")
    config = json.loads((root / "data/images/config.json").read_text())
    counts = {split: facts["images"] for split, facts in config["splits"].items()}
    assert (
        sum(counts.values())
        == IMAGES - len(BROKEN)
        == sum(config["splits"][one]["sidecars"]["captions"] for one in counts)
    )
    assert {Path(one["name"]).stem for one in config["refused"]} == {"box10", "bar33"}
    assert config["classes"] == ([] if flat else [*CLASSES])
    assert json.loads((root / "reports/summary.json").read_text())["summary"]["best"] == "kmeans-onestep-ar"
    assert (root / "reports/index.html").stat().st_size > 100_000
    assert "up to date" in run("-m", "dvc", "repro")
