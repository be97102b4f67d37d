"""Memory of the data stage is bounded by what its cost estimate says: large files are refused before they are decoded.

Run: uv run pytest tests/test_data_memory.py     (with -m slow: the measured peak of the largest images)
"""

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from photos import MACHINE, good_images, halves, make, params, save
from PIL import Image, ImageFile, ImageOps

from stages.core import UserError
from stages.data import decode
from stages.data.decode import decode_rgb, to_8_bits
from stages.data.folder import open_folder
from stages.data.reader import image_facts
from stages.data.source import Refused

ROOT = Path(__file__).parents[1]


def reasons(images: Path) -> dict[str, str]:
    return {item["name"]: item["reason"] for item in image_facts(images)["refused"]}


def test_an_image_above_the_bound_is_refused_without_being_decoded(workdir, monkeypatch):
    good_images(workdir / "photos/a")
    save(workdir / "photos/a/large.png", halves(size=(60, 50)))
    save(workdir / "photos/a/large.webp", halves(size=(50, 40)))
    save(workdir / "photos/a/0.mask.png", halves(1, 2, size=(100, 100), mode="L"))
    loaded, load = [], ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loaded.append(image.size) or load(image))
    monkeypatch.setattr(decode, "DECODE_BYTES", 12 * 2000)
    said = "memory is bounded, store it smaller"
    assert reasons(make(workdir / "photos")) == {
        "a/0.png": f"its sidecar a/0.mask.png: 10,000 pixels, at most 2,000 for PNG: {said}",
        "a/large.png": f"3,000 pixels, at most 2,000 for PNG: {said}",
        "a/large.webp": f"2,000 pixels, at most 1,333 for WEBP: {said}",
    }
    assert {*loaded} == {(40, 20)}


def test_a_file_above_the_bound_is_refused_without_being_read(workdir, monkeypatch):
    good_images(workdir / "photos/a")
    save(workdir / "photos/a/large.png", Image.effect_noise((64, 64), 80))
    (workdir / "photos/a/1.txt").write_text("long " * 2**18)
    monkeypatch.setattr("stages.data.folder.FILE_BYTES", 1000)
    found = reasons(make(workdir / "photos"))
    assert re.match(r"[\d,]+ bytes, at most 1,000: memory is bounded, store it smaller", found["a/large.png"])
    assert found["a/1.png"].startswith("its sidecar a/1.txt: 1,310,720 bytes, at most 1,048,576")
    assert len(found) == 2


def test_the_estimate_counts_the_bound_once_per_worker(workdir, monkeypatch, capsys):
    good_images(workdir / "photos/a")
    make(workdir / "photos")
    assert MACHINE.num_workers == 2 and "peak memory about 3.4 GB;" in capsys.readouterr().out
    size = max(path.stat().st_size for path in (workdir / "photos/a").iterdir())
    assert open_folder(params(workdir / "photos")).decode_bytes == decode.DECODE_BYTES + size


def as_before(content: bytes) -> Image.Image:
    """The pixels, with whole copies instead of tiles."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    if image.mode.startswith("I"):
        image = Image.fromarray(to_8_bits(image))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_tiles_are_the_pixels_of_the_whole(mode, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    image = (
        Image.fromarray(noise) if mode == "RGBA" else Image.fromarray(noise[..., :3]).convert(mode.replace(";16", ""))
    )
    image = Image.fromarray(noise[..., 0].astype(np.uint16) * 255) if mode == "I;16" else image
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    image.save(file, "tiff" if mode == "CMYK" else "png", exif=exif, **({"transparency": 3} if mode == "P" else {}))
    monkeypatch.setattr(decode, "TILE_PX", 16)
    (got, size), expected = decode_rgb(file.getvalue()), as_before(file.getvalue())
    assert got.size == size == expected.size and np.array_equal(np.asarray(got), np.asarray(expected)) and not got.info


PEAK = """
import resource, sys
from pathlib import Path
from photos import MACHINE, params
from stages.data.writer import write_images
write_images(Path("images"), params(Path("photos")), MACHINE)
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
LARGEST = {  # flat images of Pillow's limit, or of ours
    "RGB.jpg": ("RGB", 9459, {"progressive": True, "subsampling": 0}),
    "CMYK.jpg": ("CMYK", 9459, {"progressive": True, "subsampling": 0}),
    "RGBA.png": ("RGBA", 9459, {}),
    "I16.png": ("I;16", 9459, {}),
    "RGB.webp": ("RGB", 7800, {"method": 0, "quality": 30}),
    "RGBA.tif": ("RGBA", 9459, {"compression": "tiff_adobe_deflate", "strip_size": 2**31 - 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_the_peak_of_the_largest_images_is_within_the_estimate(name, workdir):
    mode, side, options = LARGEST[name]
    for number in range(2):
        save(workdir / f"photos/{number}-{name}", Image.new(mode, (side, side)), **options)
    good_images(workdir / "photos")
    done = subprocess.run(
        [sys.executable, "-c", PEAK], env={"PYTHONPATH": f"{ROOT}:{ROOT}/tests"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    said = float(re.search(r"peak memory about ([\d.]+) GB", done.stdout)[1]) * 1e9
    peak = int(re.search(r"peak (\d+)", done.stdout)[1])
    print(f"{name}: peak {peak / 1e9:.2f} GB, estimate {said / 1e9:.1f} GB")
    assert peak < said and "0 files refused" in done.stdout


def test_a_broken_image_is_no_large_one():
    with pytest.raises(Refused, match="not an image file"):
        decode_rgb(b"large")
    assert issubclass(Refused, Exception) and not issubclass(Refused, UserError)
