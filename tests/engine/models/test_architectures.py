# SPDX-License-Identifier: GPL-2.0-or-later
"""What every architecture must do, whatever it is: any subset, any size, no leak from what is absent.

A new architecture joins by a line in CASES.
"""

from __future__ import annotations

import json

import pytest
import torch

from lacuna.engine.checkpoint.card import scenarios
from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.layers import module_key
from lacuna.engine.models.names import MODULES

TINY = {"width": 8, "depth": 1}
CBC = {"level_widths": [4, 8, 8, 8, 8], "token_width": 16, "heads": 2, "latent_width": 12}
CASES = {
    "sgma-small": ("sgma", {"encoder_options": TINY, "head_width": 16}),
    "sgma-stride-1": ("sgma", {"encoder_options": {**TINY, "stem_stride": 1}, "head_width": 16}),
    "sgma-pvt": ("sgma", {"encoder": "pvt_v2_b0", "stem": "repeat", "head_width": 16}),
    "sgma-resnet": ("sgma", {"encoder": "resnet18", "fusion_widths": [16, 16, 24, 24], "head_width": 16}),
    "dis2": ("dis2", {"width": 4}),
    "dis2-sample": ("dis2", {"width": 4, "norm": "sample", "evidence": "sum", "corners": True, "image_size": [32, 64]}),
    "cmx-small": ("cmx", {"encoder_options": TINY, "head_width": 16}),
    "cmx-mit": ("cmx", {"encoder": "mit_b0", "stem": "repeat", "head_width": 16, "norm": "batch", "pad": False}),
    "cbc-small": ("cbc", {"encoder_options": TINY, **CBC}),
    "cbc-grid": ("cbc", {"encoder_options": {**TINY, "stem_stride": 4}, **CBC, "token_grid": 3}),
    "cbc_slp-small": ("cbc_slp", {"encoder_options": TINY, **CBC}),
}
# By architecture, what makes its objective use all of its images, where it would draw some of them.
WHOLE = {
    "sgma": {"sgf_dropout": 0.0},
    "cmx": {"scenarios": "full"},
    "cbc": {"draw_scenarios": False},
    "cbc_slp": {"draw_scenarios": False},
}
MODALITIES = {"optical": 4, "sar": 2, "dsm": 1, "type": 3}
CLASSES = 5


def make(case, modalities=MODALITIES, **config):
    name, values = CASES[case]
    return registry.build(name, {**values, **config}, modalities, CLASSES)


def draw(names, size=(64, 64), batch=2, dtype=torch.float32):
    return {name: torch.randn(batch, MODALITIES[name], *size, dtype=dtype) for name in names}


def own_modules(model, name):
    """Return the modules that serve modality `name` alone."""
    return {path: module for path, module in model.named_modules() if path.split(".")[-1] == module_key(name)}


@pytest.fixture(params=CASES)
def case(request):
    return request.param


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_subset_gives_logits_on_the_reference_grid(case, count):
    names = list(MODALITIES)[:count]
    model = make(case, {name: MODALITIES[name] for name in names}).eval()
    for available in scenarios(names):
        with torch.no_grad():
            logits = model(draw(available, batch=1))
        assert logits.shape == (1, CLASSES, 64, 64)
        assert torch.isfinite(logits).all()


@pytest.mark.parametrize("size", [(1, 1), (33, 47), (31, 97), (70, 5)])
@pytest.mark.slow
def test_sizes_are_free(case, size):
    model = make(case).eval()
    with torch.no_grad():
        assert model(draw(["optical", "dsm"], size, 1)).shape == (1, CLASSES, *size)
        latent = model.latent(draw(["optical", "dsm"], size, 1))
    assert latent.shape[0] == 1 and latent.ndim == 4


@pytest.mark.slow
def test_images_may_be_on_grids_of_their_own(case):
    model = make(case).eval()
    images = {"optical": torch.randn(2, 4, 60, 90), "dsm": torch.randn(2, 1, 20, 30), "sar": torch.randn(2, 2, 6, 9)}
    with torch.no_grad():
        assert model(images).shape == (2, CLASSES, 60, 90)
        assert model(images, size=(20, 30)).shape == (2, CLASSES, 20, 30)
        assert model({"sar": images["sar"]}, size=(60, 90)).shape == (2, CLASSES, 60, 90)


@pytest.mark.slow
def test_an_image_of_a_batch_is_as_alone(case):
    """In float64: kernels depend on the size of the batch, and a network that has learned nothing enlarges that."""
    model = make(case).eval().double()
    images = draw(MODALITIES, batch=3, dtype=torch.float64)
    with torch.no_grad():
        together = model(images)
        alone = model({name: image[1:2] for name, image in images.items()})
    torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
def test_the_order_of_the_images_does_not_matter(case):
    model = make(case).eval()
    images = draw(MODALITIES)
    with torch.no_grad():
        assert torch.equal(model(images), model(dict(reversed(images.items()))))


@pytest.mark.slow
def test_evaluation_is_deterministic_and_leaves_the_model_as_it_is(case):
    model = make(case).eval()
    images = draw(MODALITIES)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        assert torch.equal(model(images), model(images))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("absent", MODALITIES)
@pytest.mark.slow
def test_layers_of_an_absent_modality_are_not_called(case, absent):
    model = make(case).eval()
    modules = own_modules(model, absent)
    assert modules, f"no module is named after {absent}"
    called = []
    for path, module in modules.items():
        module.register_forward_hook(lambda *_, path=path: called.append(path))
        for parameter in module.parameters():
            torch.nn.init.constant_(parameter, float("nan"))
    with torch.no_grad():
        logits = model(draw([name for name in MODALITIES if name != absent]))
    assert not called
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("absent", MODALITIES)
@pytest.mark.slow
def test_layers_of_an_absent_modality_get_no_gradient(case, absent):
    model = make(case).train()
    images = draw([name for name in MODALITIES if name != absent])
    model.losses(images, torch.randint(0, CLASSES, (2, 64, 64)))["total"].backward()
    prefixes = tuple(f"{path}." for path in own_modules(model, absent))
    reached = [path for path, parameter in model.named_parameters() if parameter.grad is not None]
    assert reached and not [path for path in reached if path.startswith(prefixes)]


@pytest.mark.slow
def test_gradients_reach_every_parameter(case):
    model = make(case, **WHOLE.get(CASES[case][0], {})).train()
    generator = torch.Generator().manual_seed(0)
    idle = dict(model.named_parameters())
    for _ in range(12):
        losses = model.losses(draw(MODALITIES), torch.randint(-1, CLASSES, (2, 64, 64)), generator=generator)
        losses["total"].backward()
        idle = {path: item for path, item in idle.items() if item.grad is None or not item.grad.abs().sum() > 0}
        if not idle:
            break
    assert not list(idle)


@pytest.mark.slow
def test_losses_follow_the_generator(case):
    """In float64, where not every library sums in the same order each time, what is drawn alone makes a difference."""
    model = make(case).double().train()
    images, target = draw(MODALITIES, (32, 32), dtype=torch.float64), torch.randint(0, CLASSES, (2, 32, 32))
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def run(seed):
        torch.manual_seed(1)
        model.load_state_dict(state)
        return model.losses(images, target, generator=torch.Generator().manual_seed(seed))["total"].item()

    first = [run(seed) for seed in range(6)]
    assert [run(seed) for seed in range(6)] == pytest.approx(first, rel=1e-9)
    assert max(first) - min(first) > 1e-6


@pytest.mark.slow
def test_pixels_without_label_count_for_nothing(case):
    model = make(case).eval()
    images, target = draw(MODALITIES), torch.full((2, 64, 64), -1)
    empty = model.losses(images, target, generator=torch.Generator().manual_seed(0))["total"]
    assert empty.item() == 0.0
    empty.backward()
    target[:, 20:30, 20:30] = 3
    weights = torch.tensor([1.0, 1.0, 1.0, 7.0, 1.0])
    plain, weighted = (
        model.losses(images, target, generator=torch.Generator().manual_seed(0), class_weights=chosen)["total"]
        for chosen in (None, weights)
    )
    torch.testing.assert_close(plain, weighted, rtol=1e-5, atol=0)
    assert plain.item() > 0


def test_a_configuration_rebuilds_the_model(case):
    model = make(case).eval()
    values = json.loads(json.dumps(model.config()))
    twin = registry.build(model.architecture, values, model.modalities, model.classes).eval()
    twin.load_state_dict(model.state_dict())
    images = draw(MODALITIES)
    assert twin.config() == model.config()
    with torch.no_grad():
        assert torch.equal(twin(images), model(images))


@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.slow
def test_presets_are_complete(case, preset):
    kind = registry.architecture(CASES[case][0])
    settings = kind.settings(preset)
    assert settings.lr > 0 and settings.epochs > settings.warmup_epochs and settings.crop > 0
    assert set(kind.preset_config(preset)) <= set(make(case).config())


@pytest.mark.parametrize(
    ("images", "found"),
    [
        ({}, "no modality"),
        ({"lidar": torch.zeros(1, 1, 8, 8)}, "'lidar'"),
        ({"sar": torch.zeros(1, 3, 8, 8)}, "sar was given as (1, 3, 8, 8)"),
        ({"sar": torch.zeros(2, 8, 8)}, "sar"),
        ({"sar": torch.zeros(2, 2, 8, 8), "dsm": torch.zeros(1, 1, 8, 8)}, "dsm"),
        ({"sar": torch.zeros(1, 2, 0, 8)}, "sar"),
    ],
)
@pytest.mark.slow
def test_wrong_images_are_refused(case, images, found):
    with pytest.raises(LacunaError) as caught:
        make(case)(images)
    assert caught.value.code == "bad-input" and found in caught.value.text and caught.value.hint


@pytest.mark.slow
def test_it_draws_scenarios_unless_a_strategy_has_done_so(case):
    model = make(case, **({"sgf_dropout": 1.0} if case.startswith("sgma") else {})).train()
    images, target = draw(list(MODALITIES)), torch.zeros(2, 64, 64, dtype=torch.int64)
    for available in (None, list(MODALITIES)[:1]):
        generator = torch.Generator().manual_seed(3)
        before = generator.get_state()
        model.losses(images, target, available=available, generator=generator)
        # What looks beyond the scenario that it is told may draw there.
        if available is None or not model.looks_beyond:
            assert torch.equal(generator.get_state(), before) == (available is not None)
    assert model.draws_scenarios


@pytest.mark.slow
def test_a_network_trains_the_scenario_that_it_is_told(case):
    """Only what looks beyond it gives gradients to the encoders of other modalities."""
    model = make(case, **({"sgf_dropout": 0.0} if case.startswith("sgma") else {})).train()
    images, target = draw(list(MODALITIES)), torch.zeros(2, 64, 64, dtype=torch.int64)
    told, *others = list(MODALITIES)
    for name in others:
        images[name].requires_grad_()
    images[told].requires_grad_()
    model.losses(images, target, available=[told], generator=torch.Generator().manual_seed(0))["total"].backward()
    assert images[told].grad.abs().sum() > 0
    touched = any(images[name].grad is not None and images[name].grad.abs().sum() > 0 for name in others)
    assert touched == model.looks_beyond


@pytest.mark.parametrize("name", sorted(set(WHOLE) - {"sgma"}))
def test_a_network_told_to_draw_no_scenarios_says_so(name):
    case = next(key for key, (kind, _) in CASES.items() if kind == name)
    assert not make(case, **WHOLE[name]).draws_scenarios


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.slow
def test_a_forward_can_be_exported(name):
    model = make(next(case for case, (kind, _) in CASES.items() if kind == name)).eval().double()
    images = draw(["optical", "dsm"], (64, 64), 1, torch.float64)
    program = torch.export.export(model, (images,), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(images), model(images), rtol=1e-9, atol=1e-9)
