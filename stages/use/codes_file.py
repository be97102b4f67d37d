"""codes.npz: the codes of many images with their names. `numpy.load` reads it, too.

codes    uint16, or uint32 past 65,536 codes, [images, N]
names    str [images]: paths relative to the deepest folder that held all inputs, with "/"
config   str, JSON: "tokenizer" (name, kind, num_codes, num_patches, grid, digest of its artifact), "images" (img_px,
         crop, background: how files became squares), "refused" ({name, reason} of files that were left out)
"""

import json
import os
import shutil
import zipfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from stages.core import UserError

ROWS = 256  # images per batch that is read


@dataclass
class Writer:
    """Codes are appended to a file aside; the block sets `config` before it ends."""

    codes: IO[bytes]
    dtype: np.dtype
    names: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)

    def add(self, names: list[str], codes_BN: np.ndarray) -> None:
        """Append the codes of some images."""
        self.codes.write(np.ascontiguousarray(codes_BN.astype(self.dtype)).tobytes())
        self.names += names


@contextmanager
def new_codes(out: Path, num_patches: int, dtype: str) -> Generator[Writer]:
    """Write a codes.npz in bounded memory; it appears whole when the block ends, or not at all."""
    spool, aside = (out.with_name(f".{out.name}.{ending}") for ending in ("codes", "partial"))
    try:
        with open(spool, "w+b") as file:
            yield (writer := Writer(file, np.dtype(dtype)))
            write_npz(aside, writer, num_patches)
        os.replace(aside, out)
    finally:
        for path in (spool, aside):
            path.unlink(missing_ok=True)


def write_npz(path: Path, writer: Writer, num_patches: int) -> None:
    """Put together the .npz from the spooled codes; codes are stored as they are, names and config are deflated."""
    header = {"descr": npy.dtype_to_descr(writer.dtype), "fortran_order": False}
    with zipfile.ZipFile(path, "w") as file:
        with file.open(member_of("codes", zipfile.ZIP_STORED), "w", force_zip64=True) as member:
            npy.write_array_header_1_0(member, {**header, "shape": (len(writer.names), num_patches)})
            writer.codes.seek(0)
            shutil.copyfileobj(writer.codes, member, 2**20)
        for name, value in (("names", np.array(writer.names, str)), ("config", np.array(json.dumps(writer.config)))):
            with file.open(member_of(name, zipfile.ZIP_DEFLATED), "w", force_zip64=True) as member:
                npy.write_array(member, value, allow_pickle=False)
    with open(path, "rb") as written:
        os.fsync(written.fileno())


def member_of(name: str, compression: int) -> zipfile.ZipInfo:
    """A member with a constant time, so that equal codes give equal bytes."""
    member = zipfile.ZipInfo(f"{name}.npy")
    member.compress_type = compression
    return member


@dataclass(frozen=True)
class Codes:
    """A codes.npz as far as it is small: its codes are read in batches."""

    path: Path
    names: list[str]
    config: dict[str, Any]
    num_patches: int

    def batches(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Names and codes [B, N] of ROWS images at a time."""
        with zipfile.ZipFile(self.path) as file, file.open("codes.npy") as member:
            _, dtype = header_of(member)
            for start in range(0, len(self.names), ROWS):
                names = self.names[start : start + ROWS]
                content = member.read(len(names) * self.num_patches * dtype.itemsize)
                yield names, np.frombuffer(content, dtype).reshape(len(names), self.num_patches)


def header_of(member: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of a .npy file, which is left at its first value."""
    version = npy.read_magic(member)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, by_columns, dtype = read(member)
    if by_columns or dtype.kind not in "iu" or len(shape) != 2:
        raise ValueError(f"codes: {dtype} {list(shape)}: expected integers [images, N], row-major")
    return shape, dtype


def open_codes(path: Path) -> Codes:
    """The names and the config of a .npz, whose codes stay on disk; `UserError` if it has no array `codes`.

    Names are numbers and config is empty where they are not there, as in a file of `numpy.savez(path, codes=…)`.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; expected a .npz of `semtok encode`")
    try:
        with zipfile.ZipFile(path) as file, file.open("codes.npy") as member:
            shape, _ = header_of(member)
        with np.load(path) as arrays:
            count = shape[0]
            names = arrays["names"].tolist() if "names" in arrays else [f"{number:06d}" for number in range(count)]
            config = json.loads(str(arrays["config"])) if "config" in arrays else {}
    except (zipfile.BadZipFile, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path}: no codes that can be read: {str(error).strip(chr(34))}") from None
    if len(names) != count:
        raise UserError(f"{path}: {len(names)} names for {count} images: expected one each")
    return Codes(path, names, config, shape[1])
