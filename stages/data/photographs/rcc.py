"""Read Qt's binary resource files (`.rcc`), as `rcc --binary` writes them: a tree of named files in one file.

The format has no specification; it is what Qt's qresource.cpp reads. All integers are big-endian. Of PySide6, which
reads it too, the smallest package takes 250 MB. All 4,861 files of gcompris-qt-data 3.1 come out equal to Qt's.

    header  b"qres", version, offsets of tree, data and names; from version 3 on flags                        all uint32
    node    offset of its name (uint32), flags (uint16), then for a folder the count of its children and the
            number of the first (uint32 each), for a file two uint16 of language and the offset of its data (uint32);
            from version 2 on a time (uint64)
    name    length (uint16), hash (uint32), UTF-16
    data    length (uint32), bytes; of a compressed file the length of the original (uint32), then zlib's bytes
"""

import struct
import zlib
from collections.abc import Iterator

from stages.core import UserError

COMPRESSED, FOLDER, ZSTD = 1, 2, 4
VERSIONS = (1, 2, 3)


def read_rcc(content: bytes) -> Iterator[tuple[str, bytes]]:
    """(path, bytes) of every file in it, in the order of the tree; `UserError` for what is no such file."""
    try:
        yield from walk(content, 0, "")
    except (struct.error, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"not a Qt resource file, or damaged: {error}") from None


def walk(content: bytes, node: int, folder: str) -> Iterator[tuple[str, bytes]]:
    """The files below the folder with this number."""
    magic, version, tree, data, names = struct.unpack_from(">4s4I", content)
    if magic != b"qres" or version not in VERSIONS:
        raise UserError(f"not a Qt resource file of version 1 to 3: begins with {content[:8]!r}")
    size = 22 if version > 1 else 14
    count, first = struct.unpack_from(">2I", content, tree + node * size + 6)
    for child in range(first, first + count):
        name_at, flags = struct.unpack_from(">IH", content, tree + child * size)
        path = f"{folder}{name_of(content, names + name_at)}"
        if flags & FOLDER:
            yield from walk(content, child, f"{path}/")
        else:
            (at,) = struct.unpack_from(">I", content, tree + child * size + 10)
            yield path, file_of(content, data + at, flags, path)


def name_of(content: bytes, at: int) -> str:
    """The name that stands at this offset."""
    (length,) = struct.unpack_from(">H", content, at)
    return part(content, at + 6, 2 * length).decode("utf-16-be")


def file_of(content: bytes, at: int, flags: int, path: str) -> bytes:
    """The file whose data stand at this offset."""
    (length,) = struct.unpack_from(">I", content, at)
    stored = part(content, at + 4, length)
    if flags & ZSTD:
        raise UserError(f"{path}: compressed by zstd; only zlib is read")
    return zlib.decompress(stored[4:]) if flags & COMPRESSED else stored


def part(content: bytes, at: int, length: int) -> bytes:
    """So many bytes from this offset; `struct.error` if there are fewer."""
    return struct.unpack_from(f"{length}s", content, at)[0]
