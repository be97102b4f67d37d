"""Small Debian packages and Qt resource files, in memory, for tests of stages/data/photographs/."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

from PIL import Image

from stages.data.photographs.folders import ACTIVITIES, ACTIVITY_FOLDERS, ANIMALS, FOLDERS, GCOMPRIS, STAMPS, TUXPAINT

COPYRIGHT = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020 Everyone
  2021 Everyone Else
License: GPL-2
 The text of the license.

Files: src/activities/erase/resource/owl.jpg
Copyright: A. Photographer
License: CC-BY-SA-3.0
Comment: https://example.org/owl
"""


def write_packages(folder: Path) -> None:
    """Both packages, with a stamp or photograph for every folder of the tables and every animal."""
    stamps = {f"{STAMPS}/{place}/one.png": stamp() for places in FOLDERS.values() for place in places}
    stamps[f"{STAMPS}/animals/birds/owl.png"] = stamp(wide=100)
    stamps[f"{STAMPS}/animals/birds/owl.txt"] = b"An owl.\nde.utf8=Eine Eule.\n"
    stamps[f"{STAMPS}/animals/birds/small.png"] = stamp(wide=10)
    stamps[f"{STAMPS}/animals/birds/cartoon/owl.png"] = stamp()
    stamps[f"{STAMPS}/animals/mammals/hedgehog.png"] = stamp()
    stamps[f"{STAMPS}/symbols/one.png"] = stamp()
    places = [f"{place}/oneTower2.webp" for places in ACTIVITY_FOLDERS.values() for place in places]
    places += [f"erase/resource/{name}.webp" for names in ANIMALS.values() for name in names.split()]
    photographs = {f"{ACTIVITIES}/{place}": b"photograph" for place in [*places, "erase/resource/unknown.webp"]}
    write_deb(folder / f"{TUXPAINT}_1_all.deb", TUXPAINT, stamps)
    write_deb(folder / f"{GCOMPRIS}_2_all.deb", GCOMPRIS, {"usr/share/gcompris-qt/rcc/all.rcc": rcc(photographs)})


def stamp(wide: int = 80) -> bytes:
    """A PNG with an opaque bar in the upper left corner of a transparent picture."""
    image = Image.new("RGBA", (wide + 20, 120))
    image.paste((200, 40, 20, 255), (0, 0, wide, 20))
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def write_deb(path: Path, name: str, files: dict[str, bytes]) -> None:
    """A .deb file: an ar archive of its version, its control data and its files."""
    control = tar({"./control": f"Package: {name}\nVersion: 1-1\nArchitecture: all\n".encode()})
    files = {f"./usr/share/doc/{name}/copyright": COPYRIGHT.encode(), **{f"./{key}": files[key] for key in files}}
    members = {"debian-binary": b"2.0\n", "control.tar.gz": control, "data.tar.gz": tar(files)}
    content = b"!<arch>\n"
    for member, inner in members.items():
        content += (
            f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(inner):<10}`\n".encode() + inner + b"\n" * (len(inner) % 2)
        )
    path.write_bytes(content)


def tar(files: dict[str, bytes]) -> bytes:
    """A compressed tar archive."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return file.getvalue()


def rcc(files: dict[str, bytes], version: int = 3) -> bytes:
    """A Qt resource file of these files; every other one is compressed."""
    tree: dict = {}
    for path, content in files.items():
        *folders, name = path.split("/")
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[name] = content
    nodes, names, data, waiting = [("", tree)], b"", b"", [0]
    while waiting:  # children of a folder stand together
        inner = nodes[number := waiting.pop(0)][1]
        nodes[number] += (len(nodes),)
        for child in inner.items():
            waiting += [len(nodes)] if isinstance(child[1], dict) else []
            nodes.append(child)
    entries = b""
    for number, (name, content, *first) in enumerate(nodes):
        entry = struct.pack(">I", len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        if first:
            entry += struct.pack(">HII", 2, len(content), first[0])
        else:
            stored = struct.pack(">I", len(content)) + zlib.compress(content) if number % 2 else content
            entry += struct.pack(">HHHI", number % 2, 0, 0, len(data))
            data += struct.pack(">I", len(stored)) + stored
        entries += entry + bytes(8 if version > 1 else 0)
    start = 24 if version > 2 else 20
    places = (start, start + len(entries), start + len(entries) + len(data))
    header = struct.pack(">4s4I", b"qres", version, *places) + bytes(start - 20)
    return header + entries + data + names
