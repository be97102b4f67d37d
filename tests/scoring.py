"""Settings of the evaluate stage that fit the counts of toy_pipeline."""

from stages.evaluate.score import Params

PARAMS = Params(bootstrap_draws=5, kid_subset_size=40, prc_neighbours=3, max_reference_images=0, pixel_px=16,
                inception_weights="", neighbours_shown=6, seed=0)  # fmt: skip
