"""Names of timm networks: what opens, what is refused before any download, and what is said about the weights.

Run: uv run pytest tests/test_timm_names.py
Networks are built on torch's meta device and, where they allow it, with two blocks.
"""

import httpx
import pytest
import timm
import torch

from stages.core import UserError
from stages.core.schemas import maps_of
from stages.encoder import hub, sources
from stages.encoder.encoder import Encoder, check_final_norm, create
from stages.encoder.hub import address, offline_advice, quickgelu_name
from stages.encoder.params import EncoderParams
from stages.encoder.sources import check, fetch
from stages.encoder.timm_networks import describe

OPEN = [  # one per family
    "aimv2_large_patch14_224.apple_pt",
    "beit_base_patch16_224.in22k_ft_in22k",
    "cait_xxs24_224.fb_dist_in1k",
    "deit_tiny_distilled_patch16_224.fb_in1k",
    "eva02_tiny_patch14_224.mim_in22k",
    "vit_base_patch16_224.mae",
    "vit_base_patch16_dinov3.lvd1689m",
    "vit_base_patch16_siglip_224.webli",
    "vit_pe_spatial_tiny_patch16_512.fb",
]
MAPS = {  # networks of other kinds, one per form of features -> sides and widths of their blocks
    "test_resnet.r160_in1k": [(80, 32), (40, 32), (20, 48), (10, 192), (5, 96)],
    "test_convnext.r160_in1k": [(40, 24), (20, 32), (10, 48), (5, 64)],
    "hiera_tiny_224.mae": [(56, 96), (28, 192), (14, 384), (7, 768)],
}
REFUSED = {  # name -> reason
    "gemma4_vit_167m": "square grid of features after each block or stage, at 768 px",
    "vit_base_patch16_224.no_such_tag": "Invalid pretrained tag",
    "vit_nonsense_patch16": "timm.list_models",
    "hf-hub:timm/vit_base_patch16_224.mae": "timm.list_models",
    "local-dir:/tmp": "timm.list_models",
}


@pytest.fixture
def shallow(monkeypatch):
    """Two blocks are enough, where a network takes their number."""
    whole = timm.create_model

    def create(name, **options):
        try:
            return whole(name, **options, depth=2)
        except TypeError:
            return whole(name, **options)

    monkeypatch.setattr(timm, "create_model", create)


def params_of(name: str, img_px: int = 0) -> EncoderParams:
    """The section `encoder` for a name, at the network's own size."""
    cfg = timm.get_pretrained_cfg(name.removesuffix(".no_such_tag")) if timm.is_model(name) else None
    return EncoderParams(name=name, weights="", img_px=img_px or (cfg.input_size[-1] if cfg else 224), precision="fp32")


def built(params: EncoderParams) -> tuple[torch.nn.Module, dict]:
    """A network with initial weights, and its part of the config."""
    return create(params.name, params.img_px, {}), describe(params, {})[1]


@pytest.mark.parametrize("name", OPEN)
def test_a_network_of_every_plain_family_opens_at_its_own_and_at_another_size(name, shallow, tmp_path):
    own = params_of(name)
    check(tmp_path, own)
    check(tmp_path, params_of(name, own.img_px * 2))


@pytest.mark.parametrize("name", MAPS)
def test_of_other_networks_every_feature_map_is_a_block(name):
    """Convolutional: NCHW; ConvNeXt: NCHW with norms; Hiera: NHWC, and tokens in an order of its own."""
    own = params_of(name)
    config = describe(own, {})[1]
    assert maps_of(config) == MAPS[name] and "patch_px" not in config
    torch.manual_seed(0)
    encoder = Encoder(create(name, own.img_px, {}), {**config, "img_px": own.img_px, "precision": "fp32"})
    pixels = torch.rand(1, 3, own.img_px, own.img_px)
    with torch.inference_mode():
        found = encoder(pixels * 2 - 1, blocks=[2, 0], final_norm=False)
        mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
        wanted = encoder.vit.forward_intermediates((pixels - mean) / std, intermediates_only=True)
    assert [tuple(one.shape[1:]) for one in found] == [(MAPS[name][i][0] ** 2, MAPS[name][i][1]) for i in (2, 0)]
    torch.testing.assert_close(
        found[1][0, 1], wanted[0][0, :, 0, 1], msg="row-major: the second place of the first row"
    )
    torch.testing.assert_close(found[0][0, -1], wanted[2][0, :, -1, -1])
    assert isinstance(encoder.final_norm, torch.nn.Identity) and not encoder.plain


@pytest.mark.parametrize("name", REFUSED)
def test_any_other_name_is_refused_before_its_weights_are_looked_for(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "load_weights", lambda *_: pytest.fail("looked for weights"))
    with pytest.raises(UserError, match=f"encoder.name = '{name}'.*{REFUSED[name]}"):
        fetch(tmp_path, tmp_path / "encoder", params_of(name))


def test_an_image_size_between_two_patches_is_refused_under_its_own_key(shallow, tmp_path):
    with pytest.raises(UserError, match=r"encoder.img_px = 33: expected a multiple of the patch size, 16 px"):
        check(tmp_path, params_of("vit_base_patch16_224.mae", 33))


def test_a_final_norm_that_is_an_rms_norm_is_applied_and_one_that_is_missing_refused(shallow):
    aimv2, spatial = (
        Encoder(vit, {**config, "img_px": config["patch_px"] * 4, "precision": "fp32"})
        for vit, config in (
            built(params_of("aimv2_large_patch14_224.apple_pt", 56)),
            built(params_of("vit_pe_spatial_tiny_patch16_512.fb", 64)),
        )
    )
    pixels = torch.rand(1, 3, 56, 56)
    [plain], [normed] = (aimv2(pixels, blocks=[1], final_norm=wanted) for wanted in (False, True))
    torch.testing.assert_close(normed, aimv2.vit.norm(plain))
    assert not torch.equal(plain, normed)
    check_final_norm("features.final_norm", True, aimv2)
    check_final_norm("features.final_norm", False, spatial)
    with pytest.raises(UserError, match="features.final_norm = True.*expected false"):
        check_final_norm("features.final_norm", True, spatial)


@pytest.mark.slow
def test_every_architecture_of_timm_opens_at_its_own_size_or_is_refused_by_name():
    opened, refused = dict[str, int](), dict[str, str]()
    for name in timm.list_models():
        try:
            opened[name] = len(maps_of({"img_px": (own := params_of(name)).img_px, **describe(own, {})[1]}))
        except UserError as error:
            refused[name] = str(error)
            uneven = "encoder.img_px" in str(error) and "expected a multiple of the patch size" in str(error)
            assert f"encoder.name = '{name}'" in str(error) or uneven  # such as SigLIP's 384 px by patches of 14
    print(f"{len(opened)} architectures of timm open, {len(refused)} are refused: {refused}")
    families = {
        "hiera",
        "naflexvit",
        "tnt",
        "crossvit",
        "xcit",
        "mixer",
        "gmlp",
        "twins",
        "samvit",
        "convnext",
        "resnet50",
    }
    assert len(opened) > 0.97 * len(timm.list_models()) and families <= {name.split("_")[0] for name in opened}


# --- the hub ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("vit_base_patch16_224.mae", "https://huggingface.co/timm/vit_base_patch16_224.mae/resolve/main/"),
        (
            "vit_base_patch16_224",
            "https://huggingface.co/timm/vit_base_patch16_224.augreg2_in21k_ft_in1k/resolve/main/",
        ),
        ("vit_base_patch16_clip_quickgelu_224.openai", "https://huggingface.co/timm/vit_base_patch16_clip_224.openai/"),
        ("vit_base_mci_224.apple_mclip", "https://huggingface.co/apple/mobileclip_b_timm/resolve/main/"),
    ],
)
def test_the_advice_names_the_file_that_timm_would_download(name, wanted):
    source = timm.get_pretrained_cfg(name).to_dict()
    assert address(source).startswith(wanted) and address(source).endswith("/model.safetensors")
    assert f"{address(source)} on another machine and set encoder.weights" in offline_advice(source)


def test_every_published_file_has_an_address_and_no_other_has():
    for name in timm.list_models(pretrained=True):
        source = timm.get_pretrained_cfg(name).to_dict()
        assert (source.get("hf_hub_id") or source["url"]) in address(source)
    advice = offline_advice(timm.get_pretrained_cfg("vit_huge_patch14_gap_224.in1k_ijepa").to_dict())
    assert "fbaipublicfiles.com/ijepa/IN1K-vit.h.14-300e.pth.tar" in advice and "checkpoints/IN1K-vit.h.14" in advice
    assert address({}) == "" and address({"url": ""}) == ""


def test_without_network_it_tries_once_for_ten_seconds_at_most(shallow, tmp_path, monkeypatch):
    tries = []

    def unreachable(url, timeout):
        tries.append((url, timeout))
        raise httpx.ConnectError("no route to host")

    monkeypatch.setattr(hub, "get_hf_file_metadata", unreachable)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(sources, "load_pretrained", lambda *_, **__: pytest.fail("timm tries for a minute"))
    with pytest.raises(UserError, match="no route to host.*Offline: download https://huggingface.co/timm/vit_small_"):
        fetch(tmp_path, tmp_path / "encoder", params_of("vit_small_patch16_224.dino"))
    assert [timeout <= 10 for _, timeout in tries] == [True]


def test_a_network_without_published_weights_asks_for_a_file(shallow, tmp_path):
    with pytest.raises(UserError, match="nobody published weights for it.*Set encoder.weights"):
        fetch(tmp_path, tmp_path / "encoder", params_of("vit_base_patch16_gap_224"))


# --- the activation ---------------------------------------------------------------------------------------------------


def test_clip_weights_under_a_name_with_another_activation_are_warned_of(shallow, tmp_path, capsys):
    check(tmp_path, params_of("vit_base_patch16_clip_224.openai"))
    assert "Use 'vit_base_patch16_clip_quickgelu_224.openai'" in capsys.readouterr().err
    for name in ("vit_base_patch16_clip_quickgelu_224.openai", "vit_base_patch16_clip_224.laion2b"):
        check(tmp_path, params_of(name))
    assert capsys.readouterr().err == ""


def test_the_right_names_are_those_of_timm_that_share_the_weights_file():
    published = set(timm.list_models(pretrained=True))
    right = {name for name in published if "quickgelu" in name and "vit_" in name}
    found = {name: other for name in published if (other := quickgelu_name(name))}
    assert set(found.values()) == right and {tag.partition(".")[2] for tag in right} >= {"openai", "dfn2b", "dfn5b"}
    for name, other in found.items():
        assert address(timm.get_pretrained_cfg(name).to_dict()) == address(timm.get_pretrained_cfg(other).to_dict())
