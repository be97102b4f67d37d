"""The pictures of one Debian package, with class, caption, and who made them under which license."""

import io
import lzma
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from debian.copyright import Copyright, FilesParagraph
from debian.debfile import ArError, DebError, DebFile
from PIL import Image

from stages.core import UserError
from stages.core.artifact import sha256
from stages.data.photographs.folders import ACTIVITIES, GCOMPRIS, LEAST_PX, STAMPS, TUXPAINT, class_of
from stages.data.photographs.rcc import read_rcc

USUAL = {"resource", "images", "animals"}  # folders that say nothing in a name
EVERY = "*"  # the paragraph of all files
ORIGINALS = (".webp", ".jpg", ".png")  # endings under which the copyright file lists a picture
Files = dict[str, bytes]  # path -> content


@dataclass(frozen=True)
class Picture:
    """One picture: its class, its file's name and content, its caption, and the path that copyright files know."""

    label: str
    name: str
    content: bytes
    caption: str
    origin: str


class Package:
    """What matters of a .deb file; `UserError` if it is none, or another package."""

    def __init__(self, path: Path, name: str):
        self.name, self.sha256 = name, sha256(path)
        try:
            with DebFile(str(path)) as deb:
                control = deb.control.debcontrol()
                self.files = wanted_files(deb)
        except (OSError, EOFError, ArError, DebError, tarfile.TarError, lzma.LZMAError) as error:
            raise UserError(f"{path}: not a Debian package, or damaged: {error}") from None
        if control["Package"] != name:
            raise UserError(f"{path}: is the package {control['Package']!r}, expected {name!r}")
        self.version: str = control["Version"]
        self.copyright = Copyright(self.files[f"usr/share/doc/{name}/copyright"].decode().splitlines())

    def pictures(self) -> list[Picture]:
        """All photographs, in the order of their paths."""
        pictures = {TUXPAINT: stamps_in, GCOMPRIS: activities_in}[self.name](self.files)
        return sorted(pictures, key=lambda one: one.origin)

    @property
    def everyone(self) -> str:
        """The holders of the copyright of all files that are not listed, and their license."""
        one = self.paragraph("")
        return f"{line(one['Copyright'])}; {license_of(one)}"

    def rights(self, picture: Picture) -> tuple[str, str, str]:
        """(holders of the copyright or *, license, source), as the package's copyright file states them."""
        found = [self.paragraph(str(PurePosixPath(picture.origin).with_suffix(ending))) for ending in ORIGINALS]
        one = next((paragraph for paragraph in found if paragraph["Files"] != EVERY), found[0])
        holders = EVERY if one["Files"] == EVERY else line(one["Copyright"])
        return holders, license_of(one), line(str(one.comment or ""))

    def paragraph(self, path: str) -> FilesParagraph:
        """The paragraph of the copyright file for a path; of all files where the path is not listed."""
        if (found := self.copyright.find_files_paragraph(path)) is None:
            raise UserError(f"{self.name}: its copyright file has no paragraph for {path or 'all files'}")
        return found


def license_of(paragraph: FilesParagraph) -> str:
    """The short name of a license; the text may follow it."""
    return paragraph["License"].partition("\n")[0].strip()


def line(text: str) -> str:
    """A text of several lines in one."""
    return " ".join(text.split())


def wanted_files(deb: DebFile) -> Files:
    """{path: content} of what can matter, by its path."""
    tar, files = deb.data.tgz(), {}
    for item in tar:
        name = item.name.removeprefix("./")
        if is_wanted(name) and (file := tar.extractfile(item)):
            files[name] = file.read()
    return files


def is_wanted(name: str) -> bool:
    """Whether a file of a package can matter, by its path."""
    stamp = name.startswith(STAMPS) and name.endswith((".png", ".txt"))
    return stamp or name.endswith((".rcc", "/copyright"))


def stamps_in(files: Files) -> Iterator[Picture]:
    """The stamps of tuxpaint-stamps-default that are photographs and large enough."""
    for path, content in files.items():
        if not (label := class_of(path)):
            continue
        image = centered(Image.open(io.BytesIO(content)).convert("RGBA"))
        text = files.get(str(PurePosixPath(path).with_suffix(".txt")), b"").decode()
        if image.width >= LEAST_PX:
            yield Picture(label, name_of(path, STAMPS), as_png(image), english(text) or words(path), path)


def activities_in(files: Files) -> Iterator[Picture]:
    """The photographs inside the resource files of gcompris-qt-data."""
    for archive in sorted(name for name in files if name.endswith(".rcc")):
        for path, content in read_rcc(files[archive]):
            if label := class_of(path):
                yield Picture(label, name_of(path, ACTIVITIES), content, words(path), path.removeprefix("gcompris/"))


def centered(image: Image.Image) -> Image.Image:
    """What is not transparent, on a transparent square as large as its longer side."""
    cut = image.crop(image.getchannel("A").point(lambda alpha: 255 * (alpha > 8)).getbbox())
    side = max(cut.size)
    square = Image.new("RGBA", (side, side))
    square.paste(cut, ((side - cut.width) // 2, (side - cut.height) // 2))
    return square


def as_png(image: Image.Image) -> bytes:
    """The bytes of a PNG file."""
    file = io.BytesIO()
    image.save(file, "png")
    return file.getvalue()


def name_of(path: str, root: str) -> str:
    """animals/birds/owl.png -> animals-birds-owl.png: unique, since the two packages have other folders."""
    return "-".join(part for part in PurePosixPath(path).relative_to(root).parts if part not in USUAL or root == STAMPS)


def english(text: str) -> str:
    """The English description of a stamp: the first line, before those of other languages."""
    return text.partition("\n")[0].strip()


def words(path: str) -> str:
    """.../brandenburgGate.webp -> brandenburg gate; numbers are left out."""
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])|[_\d-]+", " ", PurePosixPath(path).stem)
    return " ".join(stem.lower().split())
