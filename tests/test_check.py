"""Every impossible value of params.yaml is found at once, before any stage runs.

Run: uv run pytest tests/test_check.py
"""

import subprocess
import sys
from pathlib import Path

import pytest
import toy as toys

from stages.check import errors_in, notes_on
from stages.codebook.params import KINDS as TOKENIZERS
from stages.core import UserError
from stages.decoder.params import KINDS as DECODERS
from stages.generator.alternating_params import ALTERNATING
from stages.generator.params import KINDS as GENERATORS

PARAMS = toys.TEXT


def check(path: Path) -> tuple[int, str, str]:
    """Exit status and what was printed, as a user sees it."""
    command = [sys.executable, "-m", "stages.check", "--params", str(path)]
    done = subprocess.run(command, cwd=toys.ROOT, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def errors_of(text: str, folder: Path) -> list[str]:
    """The lines that `main` prints for a params file with this text."""
    (folder / "params.yaml").write_text(text)
    try:
        return errors_in(folder / "params.yaml")
    except UserError as error:
        return str(error).splitlines()


def test_the_shipped_file_is_possible():
    assert check(toys.ROOT / "params.yaml") == (0, "", "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    num_codes: 256", "    num_codes: 0", "codebook.kmeans.num_codes = 0: input should be greater than 0"),
        ("    num_codes: 256", "    num_codes: 2.0", "codebook.kmeans.num_codes = 2.0"),
        ("    kind: kmeans", "    kind: kmean", "codebook.kmeans.kind = 'kmean': expected one of kmeans, cluster"),
        ("  device: auto", "  device: tpu", "machine.device = 'tpu'"),
        ("  widths: [128, 64, 32]", "  widths: [128, 60]", "decoder.onestep: widths = [128, 60]: expected positive"),
        ("    heads: 4\n    dropout", "    heads: 3\n    dropout", "generator.model: heads = 3: expected a divisor"),
        ("seeds: [0, 1, 2]", "seeds: [0, 0]", "samples.draws.seeds: [0, 0]: expected different"),
        ("guidance: 1.5, steps: 8", "guidance: 1.5, steps: 0", "samples.masked.steps = 0"),
        ("\ntokens:", "\ntokenz:", "tokens: this section is missing"),
        ("\ntokens:", "\ntokenz:", "tokenz: no stage reads it"),
        ("{kind: masked,", "{kind: mask,", "generator.masked.kind = 'mask': expected one of ar, masked"),
        ("  source: digits", "  source: folder", "data: folder = 'data/code/no_folder': with source: folder"),
        ("[ar, masked]", "[ar, diffusion]", "generators = ['ar', 'diffusion']: no diffusion; generator has"),
        ("[ar, masked]", "[ar, model]", "this name has another meaning; choose another one"),
        ("[ar, masked]", "[ar, ar]", "expected different names"),
        ("[ar, masked]", "[]", "generators = []: expected a list of at least one name"),
        ("[kmeans]", "[model]", "tokenizers = ['model']: no model; codebook has kmeans, cluster"),
        ("[onestep]", "onestep", "decoders = 'onestep': expected a list"),
        ("[onestep]", "[twostep]", "decoders = ['twostep']: no twostep; decoder has onestep"),
        ("[onestep]", "[render_ar]", "pixel_tokenizer.render_ar = 'vqgan': render_ar is in use, so add"),
        ("steps: [1, 2, 3, 5, 10, 50]", "steps: [0]", "decoding_steps.steps.0 = 0: input should be greater than"),
        ("num_codes: [32, 256, 1024]", "num_codes: [32, 32]", "ablation: num_codes = [32, 32]: expected differ"),
        ("[digits, scenes, ", "[digits, scenez, ", "scenez: this section is missing"),
        ("data:\n", "data: [\n", "not valid YAML"),
        ("  block: 2 ", "  block: 99 ", "features.block = 99: the encoder has 4 blocks: expected -4 … 3"),
        ("  block: -1 ", "  block: -5 ", "probe.block = -5: the encoder has 4 blocks"),
        ("    blocks: [] ", "    blocks: [0, 4] ", "codebook.kmeans.blocks = 4: the encoder has 4 blocks"),
        ("  img_px: 32                  # input", "  img_px: 33  #", "encoder.img_px = 33: expected a multiple of the"),
        ("  img_px: 32                  # input", "  img_px: 36  #", "encoder.img_px = 36: block 2 has 9 patches per"),
    ],
)  # fmt: skip
def test_an_impossible_value_is_named(old, new, message, tmp_path):
    assert old in PARAMS
    lines = errors_of(PARAMS.replace(old, new, 1), tmp_path)
    assert any(message in line for line in lines), lines


CAPTIONED = PARAMS.replace("text_encoders: []", "text_encoders: [words]").replace(
    "captions: {}", "captions: {ar: words}"
)
CAPTIONED = CAPTIONED.replace("{kind: ar, condition: class", "{kind: ar, condition: caption")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("text_encoders: [words]", "text_encoders: [word]", "text_encoders = ['word']: no word; text has words"),
        ("text_encoders: [words]", "text_encoders: words", "text_encoders = 'words': expected a list of names"),
        ("text_encoders: [words]", "text_encoders: []", "captions.ar = 'words': expected one of text_encoders: none"),
        ("captions: {ar: words}", "captions: {}", "captions.ar: missing; expected one of text_encoders (words)"),
        ("captions: {ar: words}", "captions: {ar: 3}", "captions = {'ar': 3}: expected generator: text encoder"),
        (
            "captions: {ar: words}",
            "captions: {ar: words, masked: words}",
            "captions.masked = 'words': this generator's cond",
        ),
        (
            "{kind: ar, condition: caption",
            "{kind: ar, condition: both",
            "generator.ar.condition = 'both': input should be 'class' or 'cap",
        ),
        ("{kind: ar, condition: caption", "{kind: ar_bits, condition: caption", "generator.ar.condition = 'caption': "),
        (
            "  edited_images: 0",
            "  edited_images: 2",
            "sampling.edited_images: draws by class alone, but generator.ar.con",
        ),
        (
            "  grids: {}",
            "  grids: {ar: {a: {top_p: [1.0]}}}",
            "sampling.grids.ar: draws by class alone, but generator.a",
        ),
        ("    kind: vocabulary", "    kind: bert", "text.words.kind = 'bert': expected one of vocabulary, transformer"),
        ("    max_length: 16", "    max_length: 0", "text.words.max_length = 0: input should be greater than 0"),
        ("prompts: data/code/no_folder", "prompts: x.txt", "samples.draws.prompts: 'x.txt': expected a file with a"),
        ("caption_checkers: []", "caption_checkers: [other]", "no other; caption_checker has scenes"),
    ],
)
def test_an_impossible_value_about_captions_is_named(old, new, message, tmp_path):
    (tmp_path / "data/code").mkdir(parents=True)
    assert errors_of(CAPTIONED, tmp_path) == [] and old in CAPTIONED
    lines = errors_of(CAPTIONED.replace(old, new, 1), tmp_path)
    assert any(message in line for line in lines), lines


def test_what_is_named_and_not_read_is_a_note_and_no_error(tmp_path):
    (tmp_path / "prompts.txt").write_text("a red star\n")
    path = tmp_path / "params.yaml"
    for key in ("prompts", "folder", "captions", "statistics"):
        named = tmp_path / "prompts.txt" if key == "prompts" else tmp_path
        path.write_text(PARAMS.replace(f" {key}: data/code/no_folder", f" {key}: {named}", 1))
        (tmp_path / "captions.json").touch()
        assert errors_in(path) == []
        [line] = notes_on(path)
        assert f"{key} = {named}: not read" in line
    path.write_text(CAPTIONED.replace("prompts: data/code/no_folder", f"prompts: {tmp_path / 'prompts.txt'}"))
    assert notes_on(path) == []


def test_a_value_that_the_loss_does_not_read_is_not_compared_with_the_encoder(tmp_path):
    deep = PARAMS.replace("    perceptual_blocks: [0, 2]", "    perceptual_blocks: [0, 9]").replace(
        "render_ar: vqgan", "render_ar: [vqgan]"
    )
    [line] = [line for line in errors_of(deep, tmp_path) if "onestep" in line]
    assert "decoder.onestep.perceptual_blocks = [9]: expected block numbers from 0 to 3" in line
    off = deep.replace("perceptual_weight: 0.2", "perceptual_weight: 0.0")
    assert errors_of(off, tmp_path) == []


def test_all_errors_come_at_once_each_on_its_line_and_nothing_else(tmp_path):
    text = PARAMS.replace("    num_codes: 256", "    num_codes: 0", 1).replace("views: 8", "views: 0")
    (tmp_path / "params.yaml").write_text(text.replace("generators: [ar, masked]", "generators: [ar, mask]"))
    status, out, err = check(tmp_path / "params.yaml")
    assert (status, out) == (2, "")
    named = {line.split(": ")[2].split(" ")[0] for line in err.splitlines()}
    assert {"generators", "codebook.kmeans.num_codes", "tokens.views"} <= named
    assert all(line.startswith(f"error: {tmp_path / 'params.yaml'}: ") for line in err.splitlines())


def test_blocks_of_losses_and_studies_are_compared_with_the_encoder_where_they_are_in_use(tmp_path):
    text = PARAMS.replace("perceptual_blocks: [0, 2]", "perceptual_blocks: [0, 7]")
    lines = errors_of(text.replace("[kmeans]", "[kmeans, fsq]"), tmp_path)
    sections = ("codebook.fsq", "decoder.onestep", "decoding_steps")
    assert [line for line in lines if "perceptual_blocks = [7]: expected block numbers from 0 to 3" in line] == lines
    assert {line.split(": ")[1].split(".perceptual")[0] for line in lines} == {*sections}


def test_a_fetched_encoder_is_as_good_as_an_embedded_one_if_it_has_the_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = PARAMS.replace("  name: digits ", "  name: vit_other ").replace("  block: 2 ", "  block: 99 ")
    assert errors_of(text, tmp_path) == []
    Path("data/encoder").mkdir(parents=True)
    Path("data/encoder/config.json").write_text('{"name": "vit_other", "depth": 12, "dim": 8, "patch_px": 4}')
    assert len(errors_of(text, tmp_path)) == 1
    assert errors_of(text.replace("vit_other", "vit_another"), tmp_path) == []
    for damaged in ("", "[]", '{"name": "vit_other", "depth": []}'):
        Path("data/encoder/config.json").write_text(damaged)
        assert errors_of(text, tmp_path) == []


def test_widths_of_an_autoencoder_divide_the_images(tmp_path):
    text = PARAMS.replace("[kmeans]", "[kmeans, vqgan]").replace(
        "  img_px: 32                  # side", "  img_px: 34  #"
    )
    lines = errors_of(text, tmp_path)
    assert any(
        "codebook.vqgan.widths = [64, 48, 32]: 2 halvings need an image of a multiple of 4" in one for one in lines
    )


def test_sections_that_no_list_names_block_nothing(tmp_path):
    text = PARAMS.replace("    kind: vqkd", "    kind: mine", 1).replace("    method: ar ", "    method: ab ")
    assert errors_of(text + "\n", tmp_path) == []
    assert errors_of(text.replace("[kmeans]", "[kmeans, vqkd]"), tmp_path) != []
    assert any(
        "decoder.render_ar.method" in line for line in errors_of(text.replace("[onestep]", "[render_ar]"), tmp_path)
    )


def test_a_users_own_sections_are_accepted(tmp_path):
    own = PARAMS.replace("  cluster:\n", "  kmeans_1024: {kind: cluster, num_codes: 0}\n  cluster:\n", 1)
    assert errors_of(own, tmp_path) == []
    [*lines] = errors_of(own.replace("[kmeans]", "[kmeans, kmeans_1024]"), tmp_path)
    assert any("codebook.kmeans_1024.num_codes = 0" in line for line in lines)


def test_a_render_decoder_in_use_needs_a_pixel_tokenizer(tmp_path):
    text = PARAMS.replace("[onestep]", "[onestep, render_ar]").replace("[kmeans]", "[kmeans, vqgan]")
    assert errors_of(text, tmp_path) == []
    [line] = errors_of(text.replace("  render_ar: vqgan\n", ""), tmp_path)
    assert "pixel_tokenizer.render_ar: missing; expected the name of a tokenizer of kind vqgan or fsq" in line
    [line] = errors_of(text.replace("  render_ar: vqgan\n", "  render_ar: kmeans\n"), tmp_path)
    assert "pixel_tokenizer.render_ar = 'kmeans': expected a tokenizer of kind vqgan or fsq" in line


def test_a_file_that_is_missing_or_empty_is_an_error(tmp_path):
    status, _, err = check(tmp_path / "params.yaml")
    assert status == 2 and "params.yaml: no such file" in err
    (tmp_path / "params.yaml").write_text("# nothing\n")
    status, _, err = check(tmp_path / "params.yaml")
    assert status == 2 and "expected sections with values" in err


def test_every_kind_has_a_section():
    params = toys.YAML(typ="safe").load(PARAMS)
    for section, kinds in (
        ("codebook", TOKENIZERS),
        ("decoder", DECODERS),
        ("generator", {**GENERATORS, **ALTERNATING}),
    ):
        assert {one["kind"] for one in params[section].values() if "kind" in one} == {*kinds}


def test_it_imports_nothing_heavy():
    code = "import sys, stages.check; print({'torch', 'timm', 'faiss', 'sklearn', 'PIL'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=toys.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
