"""FID of images decoded from perturbed codes. Run: uv run pytest tests/test_code_noise_fid.py"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import toy as toys
from torch.nn.functional import normalize

from stages.check import check_noise_decoders
from stages.codebook.quantizers import Codebook, Fsq
from stages.core import UserError
from stages.studies.code_noise_scores import Noise, nearest_codes, replaced, uniforms
from stages.studies.params import CodeNoiseGrid


@pytest.fixture(scope="module")
def root(toy, tmp_path_factory) -> Path:
    """A toy pipeline with its reconstructions by a trained decoder, scored, and the study."""
    root = tmp_path_factory.mktemp("code_noise") / "toy"
    shutil.copytree(toy, root, ignore=shutil.ignore_patterns("scratch"))
    for command in ("decoder", "classifier", "reference", "reconstruction", "code_noise_fid"):
        toys.run(command, root)
    return root


def metrics_of(root: Path, folder: str) -> dict:
    return json.loads((root / "reports" / folder / "kmeans-onestep/metrics.json").read_text())


def test_no_noise_and_one_near_code_give_rfid_exactly_and_noise_among_all_codes_does_not(root):
    found, scored = metrics_of(root, "reconstruction/code_noise"), metrics_of(root, "reconstruction")
    assert len(found["rfid"]) == 2 and found["rfid"].items() <= scored["reconstruction"].items()
    by_point = {(point["alpha"], point["delta"]): point for point in found["points"]}
    assert {*by_point} == {(0, 1), (0, 8), (1, 1), (1, 8)}
    for key, value in found["rfid"].items():
        pfid = key.replace("rfid", "pfid")
        for point in ((0, 1), (0, 8), (1, 1)):
            assert by_point[point][pfid] == value and by_point[point][f"{pfid}_std"] == 0 == by_point[point]["changed"]
        assert by_point[1, 8][pfid] > value
        mean = sum(point[pfid] for point in by_point.values()) / 4
        assert found["pfid"][pfid] == pytest.approx(mean, rel=1e-5)
        assert found["pfid"][f"{pfid}_std"] == pytest.approx(by_point[1, 8][f"{pfid}_std"] / 4, rel=1e-4)
    assert by_point[1, 8]["changed"] == pytest.approx(7 / 8, abs=0.05) and by_point[1, 8]["delta_share"] == 1


def test_the_protocol_says_how_codes_were_perturbed_and_is_otherwise_that_of_rfid(root):
    rfid, pfid = metrics_of(root, "reconstruction/code_noise")["protocol"]
    noise = {"alphas": [0, 1], "delta_shares": [0.01, 1], "beta": 1.0, "noise_seeds": [0, 1]}
    assert pfid == {**rfid, "of": "pfid", **noise}
    [_, scored] = metrics_of(root, "reconstruction")["protocol"]
    assert {**rfid, "of": "reconstruction"} == scored


def test_two_runs_give_the_same_bytes_and_batches_change_nothing(root):
    path = root / "reports/reconstruction/code_noise/kmeans-onestep/metrics.json"
    before = path.read_bytes()
    toys.run("code_noise_fid", root)
    assert path.read_bytes() == before
    near = torch.arange(8).expand(9, 16, 8)
    whole = replaced(near, Noise(0.5, 8, 0), uniforms(range(9), 16, 0))
    parts = [replaced(near[part], Noise(0.5, 8, 0), uniforms(part, 16, 0)) for part in (range(4), range(4, 9))]
    assert torch.equal(whole, torch.cat(parts))


@pytest.mark.parametrize("codebooks", [1, 2])
@pytest.mark.parametrize("unit", [False, True])
def test_near_codes_are_sorted_by_their_distance_from_the_feature_within_their_codebook(codebooks, unit):
    torch.manual_seed(0)
    vectors, features = torch.randn(codebooks * 10, 3), torch.randn(2, codebooks * 4, 3)
    codebook = Codebook(normalize(vectors, dim=-1) if unit else vectors, unit, codebooks)
    near = nearest_codes(codebook, features, 4)
    placed = normalize(features, dim=-1) if unit else features
    distances = torch.cdist(placed, codebook.vectors.expand(2, -1, -1))
    for position in range(codebooks * 4):
        own = slice(position // 4 * 10, position // 4 * 10 + 10)
        expected = distances[:, position, own].argsort(1)[:, :4] + own.start
        assert torch.equal(near[:, position], expected)
    assert torch.equal(near[..., 0], codebook.assign(features))


def test_near_codes_of_fsq_are_the_nearest_points_of_its_grid():
    torch.manual_seed(0)
    fsq, features = Fsq([5, 3]), torch.randn(1, 6, 2)
    near = nearest_codes(fsq, features, 15)
    distances = torch.cdist(fsq.in_code_space(features), fsq.vectors[None])
    assert torch.equal(near, distances.argsort(-1)) and torch.equal(near[..., 0], fsq.assign(features))


def test_the_share_of_replaced_codes_and_of_each_near_code_is_as_asked():
    near, drawn = torch.arange(4).expand(200, 64, 4), uniforms(range(200), 64, 3)
    share = torch.bincount(replaced(near, Noise(0.5, 4, 3), drawn).flatten()) / (200 * 64)
    assert share.tolist() == pytest.approx([0.625, 0.125, 0.125, 0.125], abs=0.01)
    assert torch.equal(replaced(near, Noise(0.0, 4, 3), drawn), near[..., 0])
    assert replaced(near, Noise(1.0, 2, 3), drawn).unique().tolist() == [0, 1]


def test_decoders_that_are_not_in_use_and_impossible_grids_are_refused(tmp_path):
    path = toys.write_params(tmp_path, {"code_noise_fid": {"decoders": ["onestep", "x; touch y"]}})
    with pytest.raises(UserError, match=r"code_noise_fid.decoders = \['x; touch y'\]: expected some of decoders"):
        check_noise_decoders(path)
    good = {"alphas": [0.5], "delta_shares": [0.1], "seeds": [0, 1], "decoding_precision": "fp32", "seed": 0}
    for bad in ({"alphas": [1.5]}, {"delta_shares": [0]}, {"seeds": [0]}, {"alphas": [0.5, 0.5]}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            CodeNoiseGrid.model_validate({**good, **bad})
