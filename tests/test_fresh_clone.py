"""The README's first command on a fresh clone ends with the report, and a second run has nothing to do.

Then its commands that use what was trained work as they stand there, on files that training never saw.

Run: uv run pytest -m slow tests/test_fresh_clone.py
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont
from toy import ROOT

USE = re.compile(r"^uv run (semtok (?:encode|decode|reconstruct|sample|inpaint|vary) .+?)(?: +#.*)?$", re.M)


def draw_photos(clone: Path) -> None:
    """Digits of a font, of other sizes than in training, in the folder and with the mask that the README names."""
    (clone / "photos").mkdir()
    for name, digit, size in (("a", "8", (90, 90)), ("b", "3", (120, 80)), ("c", "7", (64, 96))):
        image = Image.new("RGB", size, "black")
        at, font = (size[0] / 2, size[1] / 2), ImageFont.load_default(64)
        ImageDraw.Draw(image).text(at, digit, "white", font, anchor="mm")
        image.save(clone / "photos" / f"{name}.png")
    mask = Image.new("L", (90, 90), 0)
    ImageDraw.Draw(mask).rectangle((0, 45, 89, 89), fill=255)
    mask.save(clone / "mask.png")


@pytest.mark.slow
def test_the_first_command_on_a_fresh_clone_ends_with_the_report_and_then_does_nothing(tmp_path):
    subprocess.run(["git", "clone", "-q", str(ROOT), "semtok"], cwd=tmp_path, check=True)
    clone, env = tmp_path / "semtok", {**os.environ, "DVC_NO_ANALYTICS": "1"}
    env.pop("VIRTUAL_ENV", None)
    command = re.search(r"pip install uv && (uv run dvc repro)", (ROOT / "README.md").read_text())[1].split()
    subprocess.run(command, cwd=clone, env=env, check=True)
    assert (clone / "reports/index.html").stat().st_size > 100_000
    again = subprocess.run(command, cwd=clone, env=env, check=True, capture_output=True, text=True)
    assert "Data and pipelines are up to date" in again.stdout

    draw_photos(clone)
    lines = USE.findall((ROOT / "README.md").read_text())
    assert len(lines) == 6
    for line in lines:
        subprocess.run(["uv", "run", *shlex.split(line)], cwd=clone, env=env, check=True)
    api = (
        "import numpy, semtok; t = semtok.load_tokenizer('data/codebook/kmeans'); "
        "c = t.encode(['photos/a.png', 'photos/b.png', 'photos/c.png']); "
        "numpy.savez('api.npz', codes=c, images=semtok.load_decoder('data/decoder/kmeans-onestep').decode(c))"
    )
    subprocess.run(["uv", "run", "python", "-c", api], cwd=clone, env=env, check=True)
    with np.load(clone / "codes.npz") as written, np.load(clone / "api.npz") as expected:
        assert written["names"].tolist() == ["a.png", "b.png", "c.png"]
        assert np.array_equal(written["codes"], expected["codes"])
        decoded = [np.asarray(Image.open(clone / f"decoded/{name}.png")) for name in "abc"]
        assert np.array_equal(decoded, expected["images"])
    assert {"grid.png", "samples.png", "samples.webp", "a-inpaint.png", "a-vary.png"} <= {*os.listdir(clone)}
