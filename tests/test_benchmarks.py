"""What the benchmarks make before they measure.

Run: uv run pytest tests/test_benchmarks.py
"""

import pytest
from ruamel.yaml import YAML
from toy import ROOT

from benchmarks.trainings import seeded

TEXT = (ROOT / "params.yaml").read_text()


@pytest.mark.parametrize("decoder", ["onestep", "onestep_vqgan", "render_masked", "diffusion_uniform"])
def test_the_seed_of_any_decoder_can_be_set_and_of_no_other(decoder):
    expected, made = (YAML(typ="safe").load(text) for text in (TEXT, seeded(TEXT, decoder, 5)))
    assert made["decoder"][decoder]["optim"]["seed"] == 5 != expected["decoder"][decoder]["optim"]["seed"]
    made["decoder"][decoder]["optim"]["seed"] = expected["decoder"][decoder]["optim"]["seed"]
    assert made == expected
