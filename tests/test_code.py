"""The code of a stage: what a hash sees, which stages an edit reruns, and what happens to an edit during a run.

Run: uv run pytest tests/test_code.py
"""

import shutil
from pathlib import Path

import pytest
import toy as toys

from stages.core import UserError, artifact, code, scratch

TOKENIZERS, DECODERS = ["kmeans", "vqgan"], ["onestep", "diffusion"]
SAMPLE = '''"""A module."""
import os
from pathlib import Path

def name(x, /, *rest: int, flag=None, **more) -> str:
    """A docstring."""
    text = f"{x!r:>{10}} and {'a' 'b'}{x=}" "tail"  # a comment
    return text if flag else [y async for y in rest if y is not ...]

class One(Path, metaclass=type):
    size: int = -1

    @property
    def two(self):
        match self.size:
            case {"a": [1, *others], **left}:
                return 1.5e3, b"\\x00", 2j, True, {**left}
        with open("a") as file, open("b"):
            yield lambda: (file, None)
'''


def test_the_hash_is_equal_on_every_python(tmp_path):
    """The value was computed under 3.11.7, 3.12.1 and 3.13.0."""
    (tmp_path / "sample.py").write_text(SAMPLE.replace(" async for", " for"))
    assert code.hash_of(tmp_path / "sample.py")[:16] == "a6e536e7e2fd3da7"


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("# a comment", "# another", True),
        ('"""A docstring."""\n    ', "", True),
        ('"""A module."""', '"""Another."""', True),
        ("import os\n", "import os\n\n\n", True),
        ("flag=None, **more", "flag=None,\n    **more,\n", True),
        ("'a' 'b'", "'ab'", True),
        ("flag=None", "flag=False", False),
        ("-1", "-2", False),
        ("1.5e3", "1500", False),
        ("True", "1", False),
        ("and {", "or {", False),
    ],
)
def test_comments_docstrings_and_layout_are_left_out_and_nothing_else(old, new, same, tmp_path):
    one, two = tmp_path / "one.py", tmp_path / "two.py"
    text = SAMPLE.replace(" async for", " for")
    assert old in text
    one.write_text(text)
    two.write_text(text.replace(old, new, 1))
    assert (code.hash_of(one) == code.hash_of(two)) == same


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the stages whose files may be edited, with what `pick_inputs` needs."""
    root = tmp_path_factory.mktemp("code")
    shutil.copytree(toys.ROOT / "stages", root / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    toys.write_params(root, {"tokenizers": TOKENIZERS, "decoders": DECODERS})
    with artifact.new_artifact(root / "data/features", "features", {}):
        pass
    return root


def stage_files(root: Path) -> dict[str, str]:
    """Every file of code that a stage may depend on, with its content."""
    toys.run_line("stages.core.code --out data/code", root)
    for name in TOKENIZERS:
        toys.run_line(
            f"stages.codebook.pick_inputs --name {name} --features data/features --out data/inputs/{name}", root
        )
    for name in DECODERS:
        out = f"--out data/pixel_tokenizer/{name} --code data/decoder_code/{name}"
        toys.run_line(f"stages.decoder.pick_pixel_tokenizer --name {name} --codebooks data/codebook {out}", root)
    folders = (root / "data/code", root / "data/inputs", root / "data/decoder_code")
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != "config.json"]
    return {path.relative_to(root).as_posix(): path.read_text() for path in files}


@pytest.fixture(scope="module")
def untouched(tree) -> dict[str, str]:
    """The files of code before any edit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(code, "ROOT", tree)
        return stage_files(tree)


def members_reading(changed: set[str]) -> set[str]:
    """The stages of dvc.yaml, `stage@tokenizer-decoder` of a matrix, that depend on one of the files."""
    lists = {"${tokenizers}": TOKENIZERS, "${decoders}": DECODERS, "${code_noise_fid.decoders}": DECODERS}
    found = set()
    for name, stage in toys.STAGES.items():
        for item in toys.items(stage, {**toys.LISTS, **lists}):
            deps = {toys.fill(dep, item) for dep in stage.get("deps", [])}
            if any(path == dep or path.startswith(f"{dep}/") for path in changed for dep in deps):
                found.add("@".join(filter(None, [name, "-".join(item.values())])))
    return found - {"code"}


PICKS = {"tokenizer_inputs@kmeans", "tokenizer_inputs@vqgan", "pixel_tokenizer@onestep", "pixel_tokenizer@diffusion"}
TRAININGS = {"pretrain@digits", "classifier", "generator@kmeans-ar", "generator@kmeans-masked", "codebook@vqgan"}
EVERY_DECODER = {f"decoder@{tokenizer}-{decoder}" for tokenizer in TOKENIZERS for decoder in DECODERS}


def with_decoder(name: str, *stages: str) -> set[str]:
    return {f"{stage}@{tokenizer}-{name}" for stage in stages for tokenizer in TOKENIZERS}


ALTERNATING = {f"alternating_{stage}@{t}-addp" for stage in ("generator", "samples") for t in TOKENIZERS}
DECODING = ("reconstruction", "generation", "code_noise_fid", "decoding_steps", "resolution_transfer")
OF_CODES, READ = {"tokens", "code_analysis", "noise_robustness"}, ("generator", "samples", "layer_probe")
SAMPLING = {f"sampling@{t}-{d}-{g}" for t in TOKENIZERS for d in DECODERS for g in ("ar", "masked")}
OF_AR = {f"{stage}@{t}-{g}" for stage in READ for t in TOKENIZERS for g in ("ar", "masked")} | SAMPLING | ALTERNATING
OF_AR |= {f"{stage}@{t}-addp" for stage in ("frozen_networks", "alternating_layer_probe") for t in TOKENIZERS}
WITH_PAIRS = ("decoder", "reconstruction", "code_noise_fid", "decoding_steps", "resolution_transfer")


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("core/train.py", "def fit(", "# a comment\ndef fit(", set()),
        ("core/train.py", '"""Train `model`', '"""Trains `model`', set()),
        ("core/train.py", "    model: nn.Module,\n    optim: Optim,", "    model: nn.Module, optim: Optim,", set()),
        ("studies/unused.py", "", "import os\n", set()),
        (
            "core/train.py", "optimizer.zero_grad()", "optimizer.zero_grad(set_to_none=True)",
            PICKS | EVERY_DECODER | TRAININGS | ALTERNATING | {"generator@vqgan-ar", "generator@vqgan-masked"},
        ),
        ("codebook/vqgan.py", "def fit(", "STEP = 1\n\n\ndef fit(", PICKS | {"codebook@vqgan"}),
        ("codebook/kmeans.py", "def fit(", "STEP = 1\n\n\ndef fit(", PICKS | {"codebook@kmeans"}),
        (
            "codebook/autoencoder.py", "class Autoencoder(", "STEP = 1\n\n\nclass Autoencoder(",
            PICKS | {"codebook@vqgan"} | {f"{stage}@vqgan" for stage in OF_CODES}
            | {f"{stage}@vqgan-{decoder}" for stage in WITH_PAIRS for decoder in DECODERS}
            | {name for name in SAMPLING if "@vqgan" in name},
        ),
        (
            "decoder/diffusion_training.py", "def fit(", "STEP = 1\n\n\ndef fit(",
            PICKS | with_decoder("diffusion", "decoder"),
        ),
        (
            "decoder/diffusion.py", "class DiffusionDecoder(", "STEP = 1\n\n\nclass DiffusionDecoder(",
            PICKS | with_decoder("diffusion", "decoder", *DECODING) | {one for one in SAMPLING if "diffusion" in one},
        ),
        ("report/template.html", "<body", "<body class='x'", {"report"}),
        ("generator/ar.py", "@torch.inference_mode()", "STEP = 1\n\n\n@torch.inference_mode()", OF_AR),
        ("generator/addp_training.py", "def train(", "STEP = 1\n\n\ndef train(", ALTERNATING),
    ],
)  # fmt: skip
def test_an_edit_reruns_the_stages_that_it_concerns(file, old, new, expected, tree, untouched, monkeypatch):
    monkeypatch.setattr(code, "ROOT", tree)
    path = tree / "stages" / file
    text = path.read_text() if path.exists() else ""
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else new)
    try:
        after = stage_files(tree)
    finally:
        path.write_text(text) if text else path.unlink()
    changed = {name for name in untouched.keys() | after.keys() if untouched.get(name) != after.get(name)}
    assert members_reading(changed) == expected


def test_an_edit_that_is_undone_restores_every_file(tree, untouched, monkeypatch):
    monkeypatch.setattr(code, "ROOT", tree)
    assert stage_files(tree) == untouched


def begin(tree: Path, module: str) -> None:
    """As `runtime.run` does for `python -m module`."""
    code._values.clear()
    code._files.clear()
    code._running[0] = True
    code.remember(module, code.CODE / module.removeprefix("stages."))


@pytest.fixture
def running(tree, monkeypatch):
    monkeypatch.setattr(code, "ROOT", tree)
    monkeypatch.chdir(tree)
    begin(tree, "stages.tokens.encode")
    yield tree / "stages/tokens/encode.py"
    code.end()


def test_a_comment_during_a_run_is_no_change_and_an_edit_is_named(running):
    text = running.read_text()
    try:
        running.write_text(text + "# a comment\n")
        code.check()
        running.write_text(text + "STEP = 1\n")
        with pytest.raises(UserError, match="stages/tokens/encode.py changed while this stage ran"):
            code.check()
        running.write_text(text + "def broken(\n")
        with pytest.raises(UserError, match="stages/tokens/encode.py changed"):
            code.check()
    finally:
        running.write_text(text)
    code.check()


def test_sources_that_data_code_does_not_describe_are_refused_under_dvc(running, monkeypatch):
    toys.run_line("stages.core.code --out data/code", running.parents[2])
    monkeypatch.setenv("DVC_STAGE", "tokens@kmeans")
    text = running.read_text()
    try:
        running.write_text(text + "# a comment\n")
        begin(running.parents[2], "stages.tokens.encode")
        running.write_text(text + "STEP = 1\n")
        with pytest.raises(UserError, match="stages/tokens/encode.py changed since the stage `code` ran"):
            begin(running.parents[2], "stages.tokens.encode")
    finally:
        running.write_text(text)


def test_params_and_inputs_are_tracked(running):
    value = [1]
    assert code.track("params.yaml: tokens", lambda: value[0]) == 1
    code.check()
    value[0] = 2
    with pytest.raises(UserError, match="params.yaml: tokens changed"):
        code.check()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # DVC's own
def test_the_digest_of_a_folder_is_the_one_that_dvc_records(tmp_path):
    from dvc.repo import Repo

    folder = tmp_path / "out"
    (folder / "a/b").mkdir(parents=True)
    for name in ("a/b/one.txt", "a.txt", "ä.txt", "z.txt"):
        (folder / name).write_text(name)
    Repo.init(str(tmp_path), no_scm=True)
    with Repo(str(tmp_path)) as repo:
        [stage] = repo.add(str(folder))
    assert scratch.dvc_hash(folder) == stage.outs[0].hash_info.value
