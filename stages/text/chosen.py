"""The section `captions` of params.yaml: {generator: text encoder} of generators with condition: caption."""

from pathlib import Path

from stages.core import UserError, artifact
from stages.core.params import impossible, load_list, load_value, shown
from stages.text.params import PARAMS


def load_chosen(path: Path = PARAMS) -> dict[str, str]:
    """The section; `UserError` if it is no map from names to names."""
    section = load_value("captions", path)
    if not isinstance(section, dict) or not all(isinstance(one, str) for pair in section.items() for one in pair):
        raise UserError(f"{path}: captions = {shown(section)}: expected generator: text encoder, or {{}}")
    return section


def check_chosen(generator: str, chosen: dict[str, str], path: Path = PARAMS) -> str:
    """The text encoder of a generator, "" for none; `UserError` for one that `text_encoders` does not list."""
    name = chosen.get(generator, "")
    if name and name not in (names := load_list("text_encoders", path, empty=True)):
        raise impossible(f"captions.{generator}", name, f"expected one of text_encoders: {', '.join(names) or 'none'}")
    return name


def read_chosen(file: Path, texts: Path) -> Path | None:
    """The text artifact that `choose` wrote down for a generator; None for none, `UserError` if it is another now."""
    if (note := artifact.read_with_checksum(file)) is None:
        what = "cut or edited" if file.exists() else "no artifact here"
        raise UserError(f"{file}: {what}. Run `dvc checkout` or `dvc repro captions`.")
    if not note["text_encoder"]:
        return None
    folder = texts / note["text_encoder"]
    if artifact.digest(folder) != note["digest"]:
        raise UserError(f"{folder}: another one than {file} was written for. Run `dvc repro captions`.")
    return folder
