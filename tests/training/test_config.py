import pytest
import yaml

from patchmorph.errors import PatchMorphError
from patchmorph.training.config import load_config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"images": []}}, "must name one of images, manifest and bids, got none"),
        ({"optimisation": {}}, "optimisation: Extra inputs"),
        ({"model": {"spacings_mm": [1.0, 2.0]}}, "must decrease from coarse to fine"),
        ({"optimization": {"steps": -1}}, "optimization.steps"),
        ({"model": {"patch_size": 40}}, "model.patch_size: Input should be a multiple of 16"),
        ({"data": {"images": ["a"], "bids": "b"}}, "must name one of .*, got images and bids"),
        ({"optimization": {"recompute": [5]}}, "must name stages below 2, got \\[5\\]"),
        (
            {"objective": {"similarity_options": {"window": 3}}},
            "options of lncc must be among radius, got window",
        ),
        ({"objective": {"similarity": "ssd"}}, "must be one of lncc, mse, mind, mi, got ssd"),
    ],
)
def test_mistakes_in_a_configuration_are_named(config_file, change, message):
    config_file.write_text(yaml.safe_dump(yaml.safe_load(config_file.read_text()) | change))
    with pytest.raises(PatchMorphError, match=message):
        load_config(config_file)
