# SPDX-License-Identifier: GPL-2.0-or-later
"""Only known architectures with known settings can be built, and the message says what is known."""

import pytest

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.names import MODULES

MODALITIES = {"optical": 3, "dsm": 1}


def refused(name="sgma", config=None, modalities=MODALITIES, classes=4):
    with pytest.raises(LacunaError) as caught:
        registry.build(name, config or {}, modalities, classes)
    assert caught.value.hint
    return caught.value


def test_unknown_architecture_names_the_known_ones():
    error = refused("segnet")
    assert error.code == "unknown-architecture"
    assert "'segnet'" in error.text and all(name in error.text for name in MODULES)


def test_a_module_of_the_package_is_no_architecture():
    assert refused("registry").code == "unknown-architecture"


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"widht": 3}, "'widht'"),
        ({"head_width": "wide"}, "head_width = 'wide'"),
        ({"head_width": 0}, "head_width is 0"),
        ({"head_width": True}, "head_width = True"),
        ({"sgf_dropout": 1.5}, "sgf_dropout 1.5"),
        ({"sgf_weight": float("nan")}, "sgf_weight = nan"),
        ({"mas_weight": -1.0}, "mas_weight -1.0"),
        ({"stem": "none"}, "stem = 'none'"),
        ({"heads": [1, 2]}, "heads is [1, 2]"),
        ({"heads": [3, 3, 3, 3]}, "heads [3, 3, 3, 3]"),
        ({"fusion_widths": [8, 8, 8, "8"]}, "fusion_widths"),
        ({"encoder": "vgg"}, "'vgg'"),
        ({"encoder": 3}, "encoder = 3"),
        ({"encoder_options": {"stride": 1}}, "'stride'"),
        ({"encoder_options": {"stem_stride": 3}}, "stem_stride = 3"),
        ({"encoder_options": {"width": 0}}, "width is 0"),
        ({"encoder_options": [1]}, "encoder_options = [1]"),
        ({"encoder": "pvt_v2_b0", "encoder_options": {"drop_path": 1.0}}, "drop_path is 1.0"),
    ],
)
def test_bad_configurations_are_refused(config, said):
    error = refused(config=config)
    assert error.code == "bad-config"
    assert said in error.text


@pytest.mark.parametrize(
    ("modalities", "classes"), [({}, 4), ({"a": 0}, 4), ({"a": 1.5}, 4), (MODALITIES, 1), (MODALITIES, None)]
)
def test_bad_modalities_and_classes_are_refused(modalities, classes):
    assert refused(modalities=modalities, classes=classes).code == "bad-config"


def test_defaults_are_filled_in():
    model = registry.build("sgma", {"encoder_options": {"width": 8}}, MODALITIES, 3)
    assert model.config()["sgf_weight"] == 2.0
    assert model.modalities == MODALITIES and model.classes == 3 and model.architecture == "sgma"
