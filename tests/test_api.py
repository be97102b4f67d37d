"""Drawing images in three lines of Python. Run: uv run pytest tests/test_api.py"""

import numpy as np
import pytest
import toy as toys

from stages.core.errors import UserError


def test_the_three_line_api(toy, tmp_path):
    import shutil

    from stages.decoder import load_decoder
    from stages.generator import load_generator

    shutil.copytree(toy, tmp_path / "toy")
    for command in ("decoder", "ar"):
        toys.run(command, tmp_path / "toy")
    data, params = tmp_path / "toy" / "data", tmp_path / "toy" / "params.yaml"
    generator = load_generator(data / "generator/kmeans-ar", params=params)
    sample = generator.sample(classes=[0, 3, None], seed=0)
    assert sample.codes.shape == (3, 16) and sample.images.shape == (3, 16, 16, 3) and sample.images.dtype == np.uint8
    assert np.array_equal(sample.codes, generator.sample(classes=[0, 3, None], seed=0).codes)
    assert np.array_equal(sample.images, load_decoder(data / "decoder/kmeans-onestep").decode(sample.codes))
    with pytest.raises(UserError, match="from 0 to 3"):
        generator.sample(classes=[4], seed=0)
    foreign = data / "decoder/kmeans-onestep/config.json"
    foreign.write_text(foreign.read_text().replace('"tokenizer": "kmeans"', '"tokenizer": "vqgan"'))
    with pytest.raises(UserError, match="paints codes of vqgan, .* draws codes of kmeans"):
        load_generator(data / "generator/kmeans-ar", foreign.parent, params)
