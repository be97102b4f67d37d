"""Outputs that appear whole or not at all: a folder of PNG files, a picture."""

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from stages.data.threads import in_threads
from stages.use.reading import MOST_THREADS

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP"}


@contextmanager
def new_folder(out: Path) -> Generator[Path]:
    """A folder to fill, which becomes `out` when the block ends."""
    aside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        if out.is_dir():  # empty
            out.rmdir()
        os.rename(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def save_pngs(folder: Path, names: list[str], images: np.ndarray) -> None:
    """Write uint8 [B, H, W, 3] as files of these names below a folder."""
    for parent in {(folder / name).parent for name in names}:
        parent.mkdir(parents=True, exist_ok=True)
    threads = min(MOST_THREADS, os.cpu_count() or 1)
    for _ in in_threads(partial(save_png, folder), zip(names, images, strict=True), threads):
        pass


def save_png(folder: Path, item: tuple[str, np.ndarray]) -> None:
    """Write one image."""
    name, image = item
    Image.fromarray(image).save(folder / name, "png")


def save_picture(out: Path, picture: Image.Image) -> None:
    """Write a picture in the format of its ending."""
    save_frames(out, [picture], 0)


def save_frames(out: Path, frames: list[Image.Image], frame_ms: int, hold_ms: int = 0) -> None:
    """Write a picture, or several as an animation without end, the last of which stays for `hold_ms` more."""
    aside = out.with_name(f".{out.name}.partial")
    durations = [frame_ms] * (len(frames) - 1) + [frame_ms + hold_ms]
    try:
        with open(aside, "wb") as file:
            if len(frames) == 1:
                frames[0].save(file, FORMATS[out.suffix.lower()], quality=95)
            else:
                frames[0].save(
                    file, "WEBP", save_all=True, append_images=frames[1:], duration=durations, loop=0, lossless=True
                )
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
