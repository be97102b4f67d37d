"""Photographs for a run without ImageNet: two Debian packages -> class/image files with captions and attribution.

Run:    uv run --group debian python -m stages.data.photographs.fetch --out photographs
Expect: half a minute of CPU, a download of 205 MB; 493 pictures in 12 classes, 31 MB: photographs/images/CLASS/NAME,
        with captions in NAME.txt, and photographs/ATTRIBUTION.md with who made each, under which license.

`apt-get download` fetches tuxpaint-stamps-default and gcompris-qt-data: on Debian, Ubuntu and the like, without root.
Elsewhere, download both .deb files from Debian's site and name their folder with --packages. No other program is
needed: python-debian reads the packages, stages/data/photographs/rcc.py the resource files inside.
The same packages give the same files. An --out that is there is replaced as a whole, at the end.

Pictures are not changed, except stamps: they are cut to what is not transparent and centered on a transparent square.
A caption is a stamp's English description, or the name of the file in words.
"""

import argparse
import subprocess
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from stages.core import UserError, artifact, runtime
from stages.data.photographs.attribution import attribution
from stages.data.photographs.folders import GCOMPRIS, TUXPAINT, check_all
from stages.data.photographs.packages import Package, Picture

TYPE, NAMES = "photographs", (TUXPAINT, GCOMPRIS)
ELSEWHERE = "Or download both packages elsewhere, and name their folder with --packages."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write, such as photographs")
    parser.add_argument("--packages", type=Path, help="folder with the two .deb files, instead of apt-get download")
    args = parser.parse_args()
    check_out(args.out)
    with deb_files(args.packages) as paths:
        packages = [Package(path, name) for path, name in zip(paths, NAMES, strict=True)]
    write(args.out, {package: package.pictures() for package in packages})


def check_out(out: Path) -> None:
    """`UserError` for a folder of something else: it would be replaced."""
    if out.exists():
        artifact.read_config(out, TYPE)


@contextmanager
def deb_files(folder: Path | None) -> Generator[list[Path]]:
    """The paths of the two packages: in the given folder, or downloaded into a temporary one."""
    with tempfile.TemporaryDirectory() as temporary:
        if folder is None:
            download(Path(temporary))
        yield [find(folder or Path(temporary), name) for name in NAMES]


def download(folder: Path) -> None:
    """`apt-get download` of both packages; `UserError` without the program, or with what it says."""
    command = ["apt-get", "download", *NAMES]
    try:
        done = subprocess.run(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    except FileNotFoundError:
        raise UserError(f"no apt-get here, with which Debian's packages are downloaded. {ELSEWHERE}") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed. Try `apt-get update` first. {ELSEWHERE}\n{done.stderr.strip()}")


def find(folder: Path, name: str) -> Path:
    """The one .deb file of a package in a folder."""
    found = sorted(folder.glob(f"{name}_*.deb"))
    if len(found) != 1:
        raise UserError(f"{folder}: holds {len(found)} files {name}_*.deb, expected one")
    return found[0]


def write(out: Path, pictures: dict[Package, list[Picture]]) -> None:
    """Make the whole folder, then put it in the place of `out`."""
    everything = [one for some in pictures.values() for one in some]
    check_all({one.label for one in everything})
    config = {"packages": {one.name: {"version": one.version, "sha256": one.sha256} for one in pictures}}
    with artifact.new_artifact(out, TYPE, config) as folder:
        for one in everything:
            file = folder / "images" / one.label / one.name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(one.content)
            file.with_suffix(".txt").write_text(f"{one.caption}\n", encoding="utf-8")
        (folder / "ATTRIBUTION.md").write_text(attribution(pictures), encoding="utf-8")
    counts = sorted(Counter(one.label for one in everything).items())
    print(f"{out}: {len(everything)} pictures: {', '.join(f'{name} {count}' for name, count in counts)}")


if __name__ == "__main__":
    runtime.run(main)
