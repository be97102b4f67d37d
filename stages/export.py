"""A trained tokenizer, decoder or generator as a folder that stands alone: weights, config.json, model card.

Run:    semtok export NAME --to FOLDER [--decoder NAME] [--format torch] [--push OWNER/NAME]
Expect: seconds. semtok.load_tokenizer, load_decoder or load_generator opens the folder anywhere, without this
        repository's params.yaml and cache. A generator takes its decoder, its tokenizer and its sampling settings with
        it, in `beside`. --format torch adds the tokenizer or the decoder as a program of torch.export, which needs
        torch alone. --push uploads the folder to the Hugging Face Hub.
"""

import argparse
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError
from huggingface_hub.utils import validate_repo_id

from stages.artifacts import find_artifact
from stages.codebook.tokenizer import Tokenizer, load_tokenizer
from stages.core import UserError, artifact, runtime
from stages.decoder.decoder import Decoder, load_decoder
from stages.export_card import write_card
from stages.export_program import write_program
from stages.generator.generator import Generator, load_generator
from stages.generator.neighbors import BESIDE, held, only_decoder

TYPES = ("codebook", "decoder", "generator")


@dataclass(frozen=True)
class Request:
    """What is asked for; `stale` are stages whose reports do not belong to the present artifacts."""

    name: str
    to: Path
    decoder: str | None = None
    format: str | None = None
    push: str | None = None
    stale: Sequence[str] = ()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="a tokenizer, decoder or generator: a name below data/, or a folder")
    parser.add_argument("--to", type=Path, required=True, help="folder to write, which must not exist")
    parser.add_argument("--decoder", help="of a generator: the decoder that it takes along, if there are several")
    parser.add_argument("--format", choices=["torch"], help="also write a program of torch.export")
    parser.add_argument("--push", metavar="OWNER/NAME", help="also upload to this repository of the Hugging Face Hub")
    parser.add_argument("--stale", nargs="*", default=(), help="stages whose reports are left out")
    args: dict[str, Any] = vars(parser.parse_args())
    export(Request(**args))


def export(asked: Request) -> None:
    """Write the folder, and push it; `UserError` before anything is written, or with nothing left behind."""
    source = find_artifact(asked.name, TYPES)
    parts = parts_of(source, asked.decoder)
    refuse(asked, source)
    loaded = load(source, parts)
    aside = asked.to.with_name(f".{asked.to.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        copy_artifact(source, aside)
        for name, part in parts.items():
            copy_artifact(part, aside / BESIDE / name, weights=name != "samples")
        if asked.format and not isinstance(loaded, Generator):
            write_program(loaded, aside)
        write_card(source, aside, parts, asked.to.name, asked.stale)
        artifact.publish(aside, asked.to)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"{asked.to}: {artifact.type_of(source)} {source.name}; its README.md says how to load it")
    if asked.push:
        push(asked.to, asked.push)


def refuse(asked: Request, source: Path) -> None:
    """`UserError` for what cannot work, at once."""
    type_ = artifact.type_of(source)
    if asked.to.exists() or not asked.to.absolute().parent.is_dir():
        raise UserError(f"--to {asked.to}: expected a new folder in one that exists")
    if asked.decoder and type_ != "generator":
        raise UserError(f"--decoder {asked.decoder}: {source} is a {type_}: only a generator takes a decoder along")
    if asked.format and type_ == "generator":
        raise UserError(f"--format {asked.format}: of tokenizers and decoders; {source} is a generator")
    if asked.push:
        refuse_push(asked.push)


def refuse_push(repo: str) -> None:
    """`UserError` for an impossible name, and where nobody is logged in to the Hub."""
    try:
        validate_repo_id(repo)
        HfApi().whoami()
    except HFValidationError as error:
        raise UserError(f"--push {repo}: {' '.join(str(error).split())}") from None
    except (LocalTokenNotFoundError, HfHubHTTPError, httpx.HTTPError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(f"--push {repo}: the Hub knows no user here ({why}). Run `hf auth login` first.") from None


def parts_of(source: Path, decoder: str | None) -> dict[str, Path]:
    """What a generator takes along, by name; nothing for a tokenizer or a decoder, which need nothing else."""
    if artifact.type_of(source) != "generator":
        return {}
    config = artifact.read(source)
    codebook = held(source, "codebook", Path("codebook", config["tokenizer"]))
    parts = {"decoder": find_artifact(decoder, "decoder") if decoder else only_decoder(source, config)}
    if not codebook.is_dir() or artifact.digest(codebook) != config["inputs"].get("codebook"):
        raise UserError(f"{codebook}: expected the tokenizer whose codes {source} draws. Run `dvc repro`.")
    samples = held(source, "samples", Path("samples", config["tokenizer"], config["name"]))
    drawn = samples.is_dir() and artifact.read(samples)["inputs"].get("generator") == artifact.digest(source)
    return parts | {"codebook": codebook} | ({"samples": samples} if drawn else {})


def load(source: Path, parts: dict[str, Path]) -> Tokenizer | Decoder | Generator:
    """The artifact, opened as its users will do."""
    match artifact.type_of(source):
        case "codebook":
            return load_tokenizer(source)
        case "decoder":
            return load_decoder(source)
    return load_generator(source, parts["decoder"])


def copy_artifact(source: Path, out: Path, weights: bool = True) -> None:
    """A copy whose files are no links into DVC's cache; without `weights` of its config.json alone."""
    for name in artifact.read(source)["files"] if weights else ():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.checked(source, name), out / name)
    out.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / artifact.CONFIG, out / artifact.CONFIG)


def push(folder: Path, repo: str) -> None:
    """Upload the folder to a repository of the Hub, which is made if it does not exist."""
    try:
        api = HfApi()
        api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Exported by semtok")
    except (HfHubHTTPError, httpx.HTTPError) as error:
        why = str(error).strip().partition("\n")[0]
        raise UserError(
            f"--push {repo}: {why}. {folder} is complete: `hf upload {repo} {folder}` tries again."
        ) from None
    print(f"pushed to {repo}")


if __name__ == "__main__":
    runtime.run(main)
