"""Calls of the Python API by people who guess: each works as documented, or says in one line what was expected.

Run: uv run pytest tests/test_api_calls.py
"""

import re
import shutil
from inspect import signature
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import semtok
from semtok import UserError
from stages.core import artifact

PX, N, K = 16, 16, 8  # of the toy


@pytest.fixture(scope="module")
def api(trained, tmp_path_factory) -> SimpleNamespace:
    """What is loaded, valid inputs, and a folder with files that are not."""
    files = tmp_path_factory.mktemp("files")
    images = np.random.default_rng(0).integers(0, 256, (2, PX, PX, 3), dtype=np.uint8)
    Image.fromarray(images[0]).save(files / "one.png")
    (files / "text.png").write_text("no image")
    (files / "empty").mkdir()
    mask = np.zeros((PX, PX), bool)
    mask[4:9, 4:9] = True
    paths = {"t": trained / "codebook/kmeans", "d": trained / "decoder/kmeans-onestep"}
    paths |= {"g": trained / "generator/kmeans-ar", "m": trained / "generator/kmeans-masked"}
    shutil.copytree(paths["m"], files / "moved")
    tokenizer, decoder = semtok.load_tokenizer(paths["t"]), semtok.load_decoder(paths["d"])
    loaded = {"ar": semtok.load_generator(paths["g"]), "masked": semtok.load_generator(paths["m"])}
    given = {"x": images, "mask": mask, "codes": tokenizer.encode(images), "files": files}
    return SimpleNamespace(tokenizer=tokenizer, decoder=decoder, **loaded, **given, **paths)


WRONG = [  # call, what the message must contain: the value and what was expected
    (lambda a: semtok.load_tokenizer("data/codebook/none"), "data/codebook/none: no artifact here (no config.json)"),
    (lambda a: semtok.load_tokenizer(a.files / "empty"), "empty: no artifact here (no config.json)"),
    (lambda a: semtok.load_tokenizer(a.files / "one.png"), "one.png: no artifact here (no config.json)"),
    (lambda a: semtok.load_tokenizer(a.d), "holds a 'decoder' artifact, expected 'codebook'"),
    (lambda a: semtok.load_decoder(a.g), "holds a 'generator' artifact, expected 'decoder'"),
    (lambda a: semtok.load_generator(a.t), "holds a 'codebook' artifact, expected 'generator'"),
    (lambda a: semtok.load_generator(a.files / "moved"), "found none. Pass load_generator(…, decoder=PATH)"),
    (lambda a: semtok.load_generator(a.files / "moved", a.d).vary(a.x, 0.5), "no such codebook: pass load_generator"),
    (lambda a: semtok.load_generator(a.m, codebook=a.d).vary(a.x, 0.5), "kmeans-onestep: not the codebook whose codes"),
    (lambda a: semtok.load_tokenizer(None), "folder = None: expected a valid string or an instance of Path"),
    (lambda a: semtok.load_generator(a.m, codebook=4), "codebook = 4: expected a valid string or"),
    (lambda a: semtok.load_tokenizer(), "folder is missing; the arguments are folder, device"),
    (lambda a: semtok.load_tokenizer(a.t, "cpu", 3), "3 is one argument too many; the arguments are folder, device"),
    (lambda a: semtok.load_generator(a.g, decodr=a.d), "unknown, did you mean decoder? The arguments are folder, "),
    (lambda a: semtok.load_tokenizer(a.t, device="cuda:99"), "device = 'cuda:99': this machine has"),
    (lambda a: semtok.load_decoder(a.d, device="gpu"), "device = 'gpu': expected cpu, or a GPU such as cuda or cuda:1"),
    (lambda a: semtok.load_decoder(a.d, device="hpu"), "device = 'hpu': this machine has no such device: expected cpu"),
    (lambda a: semtok.load_decoder(a.d, precision="fp8"), "precision = 'fp8': expected 'fp32', 'bf16' or 'fp16'"),
    (lambda a: semtok.list_artifacts("nowhere"), "folder = 'nowhere': expected a folder that exists"),
    (lambda a: a.tokenizer.encode(a.x / 255), "float64 [2, 16, 16, 3]: expected uint8, or the range of floats"),
    (lambda a: a.tokenizer.encode(a.x, value_range=(0, 1)), "value_range = (0.0, 1.0) is for floats"),
    (lambda a: a.tokenizer.encode(a.x / 1.0, value_range=(1, 0)), "value_range = (1, 0): expected (low, high)"),
    (lambda a: a.tokenizer.encode(a.x / 1.0, value_range=1), "value_range = 1: expected (low, high)"),
    (lambda a: a.tokenizer.encode(a.x / 25.0, value_range=(0, 1)), "expected values from 0 to 1, as value_range says"),
    (lambda a: a.tokenizer.encode(a.x * np.nan, value_range=(0, 1)), "images: nan: expected values from 0 to 1"),
    (lambda a: a.tokenizer.encode(a.x > 9), "images: bool [2, 16, 16, 3]: expected uint8"),
    (lambda a: a.tokenizer.encode(a.x.astype(int)), "images: int64 [2, 16, 16, 3]: expected uint8"),
    (lambda a: a.tokenizer.encode(a.x.transpose(0, 3, 1, 2)), "images: uint8 [2, 3, 16, 16]: expected [H, W, 3]"),
    (lambda a: a.tokenizer.encode(a.x[..., 0]), "images: uint8 [2, 16, 16]: expected [H, W, 3]"),
    (lambda a: a.tokenizer.encode(a.x[..., [0, 1, 2, 0]]), "uint8 [2, 16, 16, 4]: expected [H, W, 3]"),
    (lambda a: a.tokenizer.encode(a.x[:, :0]), "images: uint8 [2, 0, 16, 3]: expected [H, W, 3]"),
    (lambda a: a.tokenizer.encode([a.x]), "uint8 [2, 16, 16, 3]: expected [H, W, 3] in a list of images"),
    (lambda a: a.tokenizer.encode([[1, 2, 3]]), "image: [1, 2, 3] (list): expected an array [H, W, 3]"),
    (lambda a: a.tokenizer.encode(None), "images: None (NoneType): expected an array [H, W, 3]"),
    (lambda a: a.tokenizer.encode("none.png"), "none.png: unreadable: No such file or directory: expected an image"),
    (lambda a: a.tokenizer.encode(a.files), "unreadable: Is a directory: expected an image file"),
    (lambda a: a.tokenizer.encode([a.files / "text.png"]), "text.png: not an image file (JPEG, PNG"),
    (lambda a: a.tokenizer.encode(Image.new("F", (9, 9))), "the value of white is unknown: expected an image file"),
    (lambda a: a.tokenizer.encode(a.x, batch_size=0), "batch_size = 0: expected greater than 0"),
    (lambda a: a.tokenizer.encode(a.x, batch_size=1.5), "batch_size = 1.5: expected a valid integer"),
    (lambda a: a.tokenizer.vectors([1.0]), "codes: 1.0 (float64): expected integers from 0 to 7"),
    (lambda a: a.decoder.decode(a.codes + K), "(int64): expected integers from 0 to 7"),
    (lambda a: a.decoder.decode(a.codes * 0 - 1), "codes: -1 (int64): expected integers from 0 to 7"),
    (lambda a: a.decoder.decode(np.full((1, N), np.nan)), "codes: nan (float64): expected integers from 0 to 7"),
    (lambda a: a.decoder.decode(a.codes > 3), "(bool): expected integers from 0 to 7"),
    (lambda a: a.decoder.decode(a.codes.reshape(2, 4, 4)), "codes: shape [2, 4, 4]: expected [B, 16]"),
    (lambda a: a.decoder.decode(a.codes[:, 1:]), "codes: shape [2, 15]: expected [B, 16]"),
    (lambda a: a.decoder.decode(3), "codes: shape []: expected [B, 16]"),
    (lambda a: a.decoder.decode([[1, 2], [3]]), "codes: setting an array element with a sequence"),
    (lambda a: a.decoder.decode(None), "codes: None (object): expected integers from 0 to 7"),
    (lambda a: a.decoder.decode(a.codes, generator=5), "generator = 5: expected an instance of Generator"),
    (lambda a: a.decoder.with_steps(0), "steps = 0: expected greater than 0"),
    (lambda a: a.decoder.with_steps(2), "steps = 2: a decoder of kind onestep takes no steps"),
    (lambda a: a.decoder.enlarged(1.5), "scale = 1.5: expected a valid integer"),
    (lambda a: a.ar.sample(), "classes = None, captions = None: expected classes=[…], and nothing else"),
    (lambda a: a.ar.sample(captions=["a"]), "captions = ['a']: expected classes=[…], and nothing else"),
    (lambda a: a.ar.sample("bars"), "classes = 'bars': expected a list, one entry per sample"),
    (lambda a: a.ar.sample(["bar"]), "class 'bar': unknown; did you mean bars?"),
    (lambda a: a.ar.sample([4]), "class 4: expected a number from 0 to 3, a class name, or None"),
    (lambda a: a.ar.sample([-1]), "class -1: expected a number from 0 to 3"),
    (lambda a: a.ar.sample([1.0]), "class 1.0: expected a number from 0 to 3"),
    (lambda a: a.ar.sample([True]), "class True: expected a number from 0 to 3"),
    (lambda a: a.ar.sample([[0, 1]]), "class [0, 1]: expected a number from 0 to 3"),
    (lambda a: a.ar.sample([0], seed=None), "seed = None: expected a valid integer"),
    (lambda a: a.ar.sample([0], seed=1.5), "seed = 1.5: expected a valid integer"),
    (lambda a: a.ar.sample([0], seed=True), "seed = True: expected a valid integer"),
    (lambda a: a.ar.sample([0], seed=-1), "seed = -1: expected greater than or equal to 0"),
    (lambda a: a.ar.sample([0], seed=2**70), "expected less than or equal to 9223372036854775807"),
    (lambda a: a.ar.sample([0], temprature=0.5), "temprature = 0.5: unknown, did you mean temperature? The settings"),
    (lambda a: a.ar.sample([0], temperature=float("nan")), "temperature = nan: Input should be a finite number"),
    (lambda a: a.ar.sample([0], top_k=1.5), "top_k = 1.5: Input should be a valid integer"),
    (lambda a: a.masked.inpaint(a.x, a.mask * 1), "mask: int64 [16, 16]: expected bool [H, W] or [2, H, W]"),
    (lambda a: a.masked.inpaint(a.files / "one.png", "no.png"), "no.png: unreadable: No such file or directory"),
    (lambda a: a.masked.inpaint(a.x, a.mask[:8]), "mask: [8, 16]: expected the 16 x 16 pixels of its image"),
    (lambda a: a.masked.vary(a.x, "a"), "strength = 'a': expected a valid number"),
    (lambda a: a.masked.vary(a.x, float("nan")), "strength = nan: expected a share of the codes"),
    (lambda a: a.masked.outpaint(a.x[:, :8], bottom=8.0), "bottom = 8.0: expected a valid integer"),
    (lambda a: a.masked.outpaint([a.x[0], a.x[1, :8]], right=1), "images: of sizes [(16, 16), (16, 8)]: expected"),
    (lambda a: a.ar.sample([]).grid(), "the sample is empty: expected at least one image"),
    (lambda a: a.ar.sample([0]).save("grid.docx"), "grid.docx: expected the ending .png, .webp or .jpg, or none"),
    (lambda a: a.ar.sample([0]).save("none/grid.png"), "none/grid.png: expected a path in a folder that exists"),
    (lambda a: a.ar.sample([0]).grid(columns=0), "columns = 0: expected greater than 0"),
]


def test_a_wrong_call_is_one_line_with_the_value_and_what_was_expected(api):
    for number, (call, said) in enumerate(WRONG):
        with pytest.raises(UserError, match=re.escape(said)) as error:
            call(api)
        assert "\n" not in str(error.value), (number, said)
    assert len(WRONG) >= 40


def test_images_of_any_form_have_the_codes_of_their_pixels(api):
    codes, encode = api.codes, api.tokenizer.encode
    one = Image.fromarray(api.x[0])
    for given in (api.x[0], one, api.files / "one.png", str(api.files / "one.png"), torch.from_numpy(api.x[0])):
        assert np.array_equal(encode(given), codes[:1]) and encode(given).dtype == np.int64
    assert np.array_equal(encode([one, api.x[1]]), codes) and np.array_equal(encode(api.x, batch_size=1), codes)
    assert np.array_equal(encode(api.x / 255, value_range=(0, 1)), codes)
    signed = torch.from_numpy(api.x).double() / 127.5 - 1
    assert np.array_equal(encode(signed, value_range=(-1, 1)), codes)
    assert encode([]).shape == encode(api.x[:0]).shape == (0, N)
    gray, clear = one.convert("L"), Image.new("RGBA", (PX, PX), (9, 9, 9, 0))
    assert np.array_equal(api.tokenizer.prepare(gray)[0], np.asarray(gray.convert("RGB")))
    assert (api.tokenizer.prepare(clear) == 255).all(), "transparency over the recorded background"


def test_other_sizes_become_the_squares_of_the_data_stage(api, trained):
    config = artifact.read_config(trained / "codebook/kmeans", "codebook")
    assert (config["img_px"], config["crop"], config["background"]) == (PX, "center", "#ffffff")
    wide = np.zeros((32, 64, 3), np.uint8)
    wide[:, :12] = wide[:, 52:] = 255  # what the center crop leaves out
    assert api.tokenizer.prepare(wide).shape == (1, PX, PX, 3) and not api.tokenizer.prepare(wide).any()
    assert np.array_equal(api.tokenizer.encode([wide, api.x[1]])[1:], api.codes[1:])
    mask = np.zeros((32, 64), bool)
    mask[:16, 16:32] = True  # the upper left quarter of what is kept
    sample = api.masked.inpaint(wide, mask, seed=1)
    small = np.zeros((PX, PX), bool)
    small[:8, :8] = True
    assert np.array_equal(sample.codes, api.masked.inpaint(api.tokenizer.prepare(wide), small, seed=1).codes)
    Image.fromarray(small).save(api.files / "mask.png")
    drawn = api.masked.inpaint(api.files / "one.png", api.files / "mask.png", seed=1).codes
    assert np.array_equal(drawn, api.masked.inpaint(api.x[0], small, seed=1).codes)


def test_codes_of_one_image_and_of_none(api):
    assert np.array_equal(api.decoder.decode(api.codes[0]), api.decoder.decode(api.codes[:1]))
    assert api.decoder.decode([]).shape == (0, PX, PX, 3)
    for empty in (api.ar.sample([]), api.masked.inpaint(api.x[:0], api.mask), api.masked.vary([], 0.5)):
        assert (empty.codes.shape, empty.codes.dtype, empty.images.shape) == ((0, N), np.int64, (0, PX, PX, 3))
    drawn = api.ar.sample(np.array([0, 1])).codes
    assert np.array_equal(drawn, api.ar.sample(torch.tensor([0, 1])).codes) and drawn.dtype == api.codes.dtype
    assert np.array_equal(drawn, api.ar.sample(("bars", np.int64(1)), seed=np.int32(0)).codes)


def test_settings_stand_in_the_help_of_a_generator(api):
    for generator, setting in ((api.ar, "top_p"), (api.masked, "choice_temperature")):
        for name in ("sample", "inpaint", "outpaint", "vary"):
            method = getattr(generator, name)
            assert signature(method).parameters[setting].default == getattr(generator.sampling, setting)
            assert re.search(rf"^    {setting} = .*: \w", method.__doc__, re.M)
    assert "choice_temperature" not in signature(api.ar.sample).parameters
    plain = str(signature(semtok.load_tokenizer))
    assert plain.startswith("(folder: str | pathlib.Path, device: torch.device | str = 'cpu')"), plain


def test_samples_are_shown_and_saved(api, workdir):
    sample = api.ar.sample([0, 1, 2], seed=0)
    assert sample.grid().size == (2 * 17 * 4 - 4, 2 * 17 * 4 - 4) and sample.grid(columns=3).size[1] == 16 * 4
    sample.save("grid.png")
    assert np.array_equal(np.asarray(Image.open("grid.png")), np.asarray(sample.grid()))
    sample.save(workdir / "three")
    files = sorted((workdir / "three").iterdir())
    assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), sample.images)


def test_artifacts_are_listed_by_path(trained):
    found = {one.path.relative_to(trained).as_posix(): one for one in semtok.list_artifacts(trained)}
    assert list(found) == sorted(found) and {"images", "codebook/kmeans", "codebook/kmeans/encoder"} < {*found}
    one = found["generator/kmeans-ar"]
    assert (one.type, one.kind, one.name, one.config["tokenizer"]) == ("generator", "ar", "ar", "kmeans")
