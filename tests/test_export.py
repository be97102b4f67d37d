"""Exported artifacts stand alone, say what they are, and compute the same, also as programs of torch.export.

Run: uv run pytest tests/test_export.py
"""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

import semtok
from pipeline import cli
from pipeline import export as asked
from stages import export as exporting
from stages.core import UserError, artifact
from stages.export import Request, export

PROTOCOL = {"of": "reconstruction", "reference": "val", "count": 18, "seed": 0}
REPORT = {"reconstruction": {"psnr_db": 21.5, "psnr_db_std": 0.25, "neighbors": {}}, "protocol": [PROTOCOL]}


@pytest.fixture
def project(trained, workdir, monkeypatch) -> Path:
    """A repository with the toy's artifacts and a report; commands run in it, results go beside it."""
    root = workdir / "repository"
    report = root / "reports/reconstruction/kmeans-onestep"
    report.mkdir(parents=True)
    (report / "metrics.json").write_text(json.dumps(REPORT))
    (root / "data").symlink_to(trained)
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def test_a_generator_takes_along_what_it_needs(project, workdir, images, monkeypatch):
    before = semtok.load_generator("data/generator/kmeans-masked")
    drawn = before.sample([0, None], seed=3), before.vary(images, 0.5)
    export(Request("kmeans-masked", workdir / "mine"))
    monkeypatch.chdir(workdir)
    shutil.rmtree(project)
    after = semtok.load_generator("mine")
    for one, other in zip(drawn, (after.sample([0, None], seed=3), after.vary(images, 0.5)), strict=True):
        assert np.array_equal(one.codes, other.codes) and np.array_equal(one.images, other.images)
    assert after.sampling == before.sampling and len(artifact.read(workdir / "mine")["files"]) == 1


def test_a_generator_keeps_the_settings_of_its_samples(project, workdir):
    before = semtok.load_generator("data/generator/kmeans-ar").sampling
    export(Request("kmeans-ar", workdir / "mine"))
    assert semtok.load_generator(workdir / "mine").sampling == before != plain(workdir / "mine")
    export(Request(str(workdir / "mine"), workdir / "again"))  # an exported one, too
    assert semtok.load_generator(workdir / "again").sampling == before
    assert "| top_p | 0.95 |" in (workdir / "again/README.md").read_text()


def plain(folder: Path):
    """The settings in the generator's own config."""
    return type(semtok.load_generator(folder).sampling)(**artifact.read(folder)["sampling"])


def test_the_card_says_what_it_was_trained_on_and_how_the_figures_were_made(project, workdir):
    export(Request("kmeans-onestep", workdir / "mine"))
    card = (workdir / "mine/README.md").read_text()
    for line in (
        "library_name: semtok", "- onestep", "# kmeans-onestep", 'semtok.load_decoder("mine")', "Source: folder; ",
        "px, crop center; 4 classes.", "| widths | [16, 8, 8] |", "### reconstruction@kmeans-onestep: reconstruction",
        "| psnr_db | 21.5 ± 0.25 |", "- reference: val", "- count: 18",
    ):  # fmt: skip
        assert line in card, line
    export(Request("kmeans", workdir / "tokenizer"))
    assert "### reconstruction@kmeans-onestep" in (workdir / "tokenizer/README.md").read_text()
    export(Request("kmeans-onestep", workdir / "stale", stale=["reconstruction@kmeans-onestep"]))
    assert "None: this artifact was not evaluated" in (workdir / "stale/README.md").read_text()


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({"name": "kmean"}, "kmean: no such artifact: expected a folder or a name below data: kmeans, kmeans-ar"),
        ({"name": "data/images"}, "holds a 'images' artifact, expected codebook or decoder or generator"),
        ({"to": "data"}, "--to data: expected a new folder in one that exists"),
        ({"to": "none/mine"}, "--to none/mine: expected a new folder in one that exists"),
        ({"decoder": "kmeans-onestep"}, "--decoder kmeans-onestep: data/codebook/kmeans is a codebook"),
        ({"name": "kmeans-ar", "decoder": "other"}, "other: no such artifact: expected a folder or a name below data"),
        ({"name": "kmeans-ar", "format": "torch"}, "--format torch: of tokenizers and decoders"),
        ({"push": "a/b/c"}, "--push a/b/c: Repo id must"),
        ({"push": "a/b"}, "--push a/b: the Hub knows no user here (no token). Run `hf auth login` first."),
    ],
)
def test_what_cannot_work_is_refused_and_leaves_nothing(project, monkeypatch, request_, said):
    def whoami(self):
        raise LocalTokenNotFoundError("no token")

    monkeypatch.setattr(HfApi, "whoami", whoami)
    there = sorted(project.rglob("*"))
    with pytest.raises(UserError) as error:
        export(Request(**{"name": "kmeans", **request_, "to": Path(request_.get("to", "mine"))}))
    assert said in str(error.value) and "\n" not in str(error.value)
    assert sorted(project.rglob("*")) == there


def test_an_export_that_fails_leaves_nothing(project, workdir, monkeypatch):
    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(exporting, "write_card", fail)
    with pytest.raises(OSError, match="no space left"):
        export(Request("kmeans", workdir / "mine"))
    assert [path.name for path in workdir.iterdir()] == ["repository"]


def test_push_uploads_the_finished_folder(project, workdir, monkeypatch):
    calls = []
    monkeypatch.setattr(HfApi, "whoami", lambda self: calls.append("whoami"))
    monkeypatch.setattr(HfApi, "create_repo", lambda self, repo, exist_ok: calls.append(f"create {repo} {exist_ok}"))

    def upload(self, repo_id, folder_path, commit_message):
        calls.append(f"upload {repo_id} {sorted(path.name for path in Path(folder_path).iterdir())}")

    monkeypatch.setattr(HfApi, "upload_folder", upload)
    export(Request("kmeans", workdir / "mine", push="me/mine"))
    files = ["README.md", "codes.safetensors", "config.json", "encoder"]
    assert calls == ["whoami", "create me/mine True", f"upload me/mine {files}"]

    def broken(self, **_):
        raise HfHubHTTPError("503 of the Hub\nand more", response=SimpleNamespace(headers={}, request=None))  # ty: ignore[invalid-argument-type]

    monkeypatch.setattr(HfApi, "upload_folder", broken)
    with pytest.raises(UserError, match=r"--push me/mine: 503 of the Hub. .*other is complete: `hf upload"):
        export(Request("kmeans", workdir / "other", push="me/mine"))
    assert semtok.load_tokenizer(workdir / "other").num_codes == 8


@pytest.mark.slow  # torch.export takes seconds to import
def test_programs_compute_what_the_api_does(project, workdir, images):
    export(Request("kmeans", workdir / "t", format="torch"))
    export(Request("kmeans-onestep", workdir / "d", format="torch"))
    codes = torch.export.load(workdir / "t/encoder.pt2").module()(torch.from_numpy(images))
    assert np.array_equal(codes.numpy(), semtok.load_tokenizer(workdir / "t").encode(images))
    decoded = torch.export.load(workdir / "d/decoder.pt2").module()(codes)
    assert np.array_equal(decoded.numpy(), semtok.load_decoder(workdir / "d").decode(codes))


def test_the_command_asks_the_stages_and_names_reports_that_are_stale(monkeypatch, workdir, capsys):
    given = []
    status = SimpleNamespace(affected=lambda: {"reconstruction@kmeans-onestep", "probe"})
    monkeypatch.setattr(asked, "read_status", lambda: status)
    monkeypatch.setattr(asked, "ask", lambda *words, secs: given.extend(words) or ("done\n", []))
    options = vars(cli.parser().parse_args(["export", "kmeans", "--to", "mine", "--push", "me/mine"]))
    assert asked.main(**{key: value for key, value in options.items() if key != "command"}) == 0
    stale = ["--stale", "reconstruction@kmeans-onestep"]
    assert given == ["stages.export", "kmeans", "--to", str(workdir / "mine"), "--push", "me/mine", *stale]
    assert capsys.readouterr().out == "done\n"
