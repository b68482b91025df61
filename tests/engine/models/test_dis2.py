# SPDX-License-Identifier: GPL-2.0-or-later
"""DIS2: the numbers and sizes of the published code, its objective, what runs in which scenario, stored logits."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lacuna.engine.errors import LacunaError
from lacuna.engine.models import registry
from lacuna.engine.models.classwise import ClassAttention
from lacuna.engine.models.dis2_layers import SampleNorm, mirrored
from lacuna.engine.models.hybrid_fusion import AttentionLayer
from lacuna.engine.models.layers import module_key

PAIR = {"rgb": 3, "ndsm": 1}
ALL = {"optical": 4, "sar": 2, "dsm": 1, "type": 3}
EXACT = {"rtol": 1e-4, "atol": 2e-5}


def make(modalities=PAIR, classes=5, **config):
    return registry.build("dis2", {"width": 4, "dropout": 0.0, **config}, modalities, classes)


def paper(**config):
    return {**registry.architecture("dis2").preset_config("paper"), **config}


def draw(modalities=PAIR, size=(32, 48), batch=2):
    return {name: torch.randn(batch, channels, *size) for name, channels in modalities.items()}


def target_for(images, classes=5):
    image = next(iter(images.values()))
    return torch.randint(0, classes, (image.shape[0], *image.shape[-2:]))


def run_branch(model, images, names):
    """Return what the branch of scenario `names` computes, scale predictions too."""
    size = tuple(next(iter(images.values())).shape[-2:])
    prepared = model._prepared(images, size)
    slots, _ = model._slots(prepared, model.encode(prepared, names, size), names, size)
    branch, missing = model.branches[model.branch_key(names)], model._missing(names)
    fused = branch.fuse(slots, missing)
    return fused, branch.decode(fused, missing, with_scales=True)


@pytest.fixture
def published(reference, image):
    """The arrays of the reference, the imported model and its input, in float64: see conftest."""
    arrays, weights = reference("dis2_k5_64x64")
    config, state = registry.architecture("dis2").import_published(weights, {"image_size": [64, 64]}, PAIR, 5)
    model = registry.build("dis2", config, PAIR, 5)
    model.load_state_dict(state)
    stack = image(1, (2, 4, 64, 64)).double()
    return arrays, model.eval().double(), {"rgb": stack[:, :3], "ndsm": stack[:, 3:]}


SCENARIOS = {"no_ndsm": ["rgb"], "no_rgb": ["ndsm"]}


def close(found, arrays, name):
    wanted = torch.from_numpy(np.asarray(arrays[name])).to(found.dtype)
    torch.testing.assert_close(found, wanted, msg=lambda text: f"{name}: {text}", **EXACT)


def test_the_published_probabilities_are_reproduced(published):
    arrays, model, images = published
    with torch.no_grad():
        close(model(images).softmax(1), arrays, "prob_full")
        for case, names in SCENARIOS.items():
            close(model({name: images[name] for name in names}).softmax(1), arrays, f"prob_{case}")
        for name, maps in model.encode(images, list(images), (64, 64)).items():
            close(model.auxiliary[module_key(name)](maps).softmax(1), arrays, f"{name}_pred")


@pytest.mark.parametrize("names", [["rgb", "ndsm"], ["rgb"], ["ndsm"]])
@pytest.mark.slow
def test_the_published_network_in_float32_is_as_in_float64(published, agrees_with_double, names):
    _, model, images = published
    agrees_with_double(model.float(), {name: images[name].float() for name in names})


@pytest.mark.parametrize("case", SCENARIOS)
def test_the_published_scales_and_losses_are_reproduced(published, case):
    arrays, model, images = published
    names = SCENARIOS[case]
    with torch.no_grad():
        scales = run_branch(model, images, names)[1].scales
        losses = model.objective(images, torch.zeros(2, 64, 64, dtype=torch.int64), names)
    for level, logits in zip((4, 3, 2, 1), scales):
        close(logits.softmax(1)[..., ::4, ::4], arrays, f"miss_scale{level}_{case}")
    close(losses["kd"], arrays, f"kd_{case}")
    close(losses["div"], arrays, f"div_{case}")


@pytest.mark.parametrize(
    ("names", "lengths"),
    [
        (["rgb", "ndsm"], [462.697, 366.611, 707.848, 532.528, 22.738, 321.897, 293.962]),
        (["rgb"], [537.209, 280.871, 322.346, 366.523, 22.503, 356.789, 255.906]),
        (["ndsm"], [484.540, 353.915, 583.983, 181.862, 22.968, 272.225, 219.077]),
    ],
)
@pytest.mark.slow
def test_maps_within_are_as_published(published, names, lengths):
    _, model, images = published
    with torch.no_grad():
        fused, decoded = run_branch(model, images, names)
        latent = model.latent({name: images[name] for name in names})
    wanted = decoded.penultimate / torch.linalg.vector_norm(decoded.penultimate, dim=1, keepdim=True)
    torch.testing.assert_close(latent, wanted[..., : latent.shape[-2], : latent.shape[-1]])
    found = [float(x.norm()) for x in (*fused.maps, fused.token, decoded.penultimate, decoded.logits)]
    assert found == pytest.approx(lengths, rel=1e-4)


@pytest.mark.parametrize(
    ("names", "features", "penultimate", "logits"),
    [
        (["rgb"], 0.0821055 + 0.0039779 + 0.0196420 + 0.0001614, 0.0643045, 0.1853134),
        (["ndsm"], 0.0181763 + 0.0525481 + 0.0295530 + 0.0108120, 0.0596513, 0.1523873),
    ],
)
def test_the_parts_of_the_distillation_are_as_published(published, names, features, penultimate, logits):
    _, model, images = published
    with torch.no_grad():
        losses = model.objective(images, torch.zeros(2, 64, 64, dtype=torch.int64), names)
    found = [float(losses[key]) for key in ("kd_features", "kd_penultimate", "kd_logits")]
    assert found == pytest.approx([features, penultimate, logits], rel=1e-4)


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def test_the_network_has_the_published_size_less_what_has_no_effect():
    with torch.device("meta"):
        model = registry.build("dis2", paper(), PAIR, 5)
    query, bias, head, convolution = 128, 1, 257, 292
    assert count(model.encoders["m_rgb"]) == 690_528
    assert count(model.branches["full"].fusion) == 1_920_353 - query - bias
    assert count(model.branches["s10"].decoder) == 791_478 - head - convolution
    assert count(model.branches["s01"].attention) == 1_280
    banks = 7 * (32 + 64 + 128 + 3 * bias)
    assert count(model) == 12_822_596 - 3 * (query + bias + head + convolution) - banks == 12_818_973


def test_the_presets():
    kind = registry.architecture("dis2")
    settings = kind.settings("paper")
    assert (settings.optimizer, settings.lr, settings.momentum, settings.nesterov) == ("sgd", 1e-3, 0.99, True)
    assert (settings.schedule, settings.restart_steps, settings.accumulation) == ("cosine_restarts", 15, 2)
    assert (settings.weight_decay, settings.warmup_epochs, settings.crop, settings.clip) == (0.0, 0, 512, None)
    assert kind.settings().optimizer == "adamw" and kind.preset_config() == {}
    both = [make(**paper(image_size=[32, 32])), make()]
    for model, same in zip(both, (True, False)):
        first, second = model.branches["full"].fusion.layers
        pairs = zip(first.state_dict().values(), second.state_dict().values())
        assert all(torch.equal(a, b) for a, b in pairs) is same


def test_an_attention_layer_is_that_of_torch():
    own = AttentionLayer(16, 24, 0.0)
    layer = torch.nn.TransformerEncoderLayer(16, 8, 24, 0.0, batch_first=True)
    pairs = [(layer.self_attn.out_proj, own.out), (layer.linear1, own.expand), (layer.linear2, own.contract)]
    with torch.no_grad():
        layer.self_attn.in_proj_weight.copy_(own.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(own.qkv.bias)
        for theirs, mine in pairs:
            theirs.load_state_dict(mine.state_dict())
        x = torch.randn(2, 9, 16)
        torch.testing.assert_close(own(x), layer(x), rtol=1e-5, atol=1e-6)


def test_the_norm_of_the_published_code_is_over_each_sample():
    x = torch.randn(3, 4, 5, 6) * 7 + 2
    torch.testing.assert_close(SampleNorm()(x), F.layer_norm(x, (4, 5, 6)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(SampleNorm()(x), torch.nn.InstanceNorm3d(3)(x), rtol=1e-5, atol=1e-6)


def test_borders_are_mirrored():
    x = torch.randn(2, 3, 2, 5)
    assert torch.equal(mirrored(x), F.pad(x, (1, 1, 1, 1), mode="reflect"))


@pytest.mark.parametrize(("mean_one", "share"), [(True, 1.0), (False, 1 / 12)])
def test_classes_weigh_the_places_of_the_fused_map(mean_one, share):
    layer, x = ClassAttention(3, 8, mean_one), torch.randn(2, 8, 3, 4)
    with torch.no_grad():
        weights = (torch.einsum("kc,bchw->bkhw", layer.queries, x) / 8**0.5).flatten(2).softmax(-1).view(2, 3, 3, 4)
        for index, evidence in enumerate(layer(x)):
            torch.testing.assert_close(evidence, weights[:, index : index + 1] * x * (12 * share))
        layer.queries.zero_()
        torch.testing.assert_close(layer(x)[0], x * share)


def test_positions_are_learned_for_one_size_and_interpolated_for_others():
    fusion = make(image_size=[32, 64]).branches["full"].fusion
    with torch.no_grad():
        fusion.positions[0].copy_(torch.arange(8.0).view(1, 8, 1).expand_as(fusion.positions[0]))
        assert torch.equal(fusion.position(0, (2, 4)), fusion.positions[0])
        larger = fusion.position(0, (4, 8))[0, :, 0].view(4, 8)
    assert larger[0, 0] == 0.0 and larger[-1, -1] == 7.0
    assert (larger.diff(dim=0) >= 0).all() and (larger.diff(dim=1) >= 0).all()
    same = make().branches["full"].fusion
    torch.nn.init.normal_(same.positions[1])
    everywhere = same.position(1, (3, 5))
    torch.testing.assert_close(everywhere, same.positions[1].expand(-1, 15, -1))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_each_scenario_has_a_branch_up_to_three_modalities(count):
    names = list(ALL)[:count]
    model = make({name: ALL[name] for name in names})
    wanted = {1: 1, 2: 3, 3: 7, 4: 2}[count]
    assert len(model.branches) == wanted and len(model.pools_student) == wanted - 1
    assert bool(model.compensators) is (count > 1) and bool(model.adapters) is (count > 2)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.slow
def test_training_reaches_every_parameter(count):
    modalities = {name: ALL[name] for name in list(ALL)[:count]}
    model = make(modalities).train()
    for names in model.student_scenarios() or [tuple(modalities)]:
        images = draw(modalities, (32, 32))
        model.objective(images, target_for(images), names)["total"].backward()
    assert not [path for path, item in model.named_parameters() if item.grad is None or not item.grad.abs().sum() > 0]


def test_only_what_the_scenario_needs_is_run():
    modalities = {name: ALL[name] for name in ("optical", "sar", "dsm")}
    model = make(modalities).eval()
    called = set()
    for path, module in model.named_modules():
        module.register_forward_hook(lambda *_, path=path: called.add(".".join(path.split(".")[:2])))
    for size in (1, 2, 3):
        for names in combinations(modalities, size):
            called.clear()
            with torch.no_grad():
                model({name: image for name, image in draw(modalities, (32, 32)).items() if name in names})
            wanted = {f"encoders.m_{name}" for name in names} | {f"branches.{model.branch_key(names)}"}
            if size < 3:
                wanted |= {f"compensators.m_{name}" for name in names}
                wanted |= {f"adapters.without_{name}" for name in modalities if name not in names}
            assert called - {""} == wanted


def test_a_slot_is_filled_by_the_mean_of_what_is_present():
    modalities = {name: ALL[name] for name in ("optical", "sar", "dsm")}
    model, images = make(modalities).eval(), draw(modalities, (32, 32))
    torch.nn.init.constant_(model.adapters["without_dsm"].scales[1], 3.0)
    torch.nn.init.constant_(model.adapters["without_dsm"].shifts[1], 0.5)
    names = ["optical", "sar"]
    with torch.no_grad():
        features = model.encode(images, names, (32, 32))
        slots, made_up = model._slots(images, features, names, (32, 32))
        mean = (model.compensators["m_optical"](images["optical"])[1] + made_up["sar"][1]) / 2
    assert slots[0] is features["optical"] and slots[1] is features["sar"]
    torch.testing.assert_close(slots[2][1], 3.0 * mean + 0.5)


def test_one_shared_student_is_told_what_is_missing():
    model, images = make(ALL).eval(), draw(ALL, (32, 32))
    branch = model.branches["student"]
    scenarios = [["sar", "dsm"], ["optical", "sar", "dsm"], list(ALL)]

    def logits():
        with torch.no_grad():
            return [model({name: images[name] for name in names}) for names in scenarios]

    before = logits()
    for embedding in (branch.missing_token, branch.missing_queries):
        torch.nn.init.normal_(embedding[0].detach(), std=2.0)
        same = [torch.equal(a, b) for a, b in zip(before, logits())]
        assert same == [False, True, True]
        torch.nn.init.zeros_(embedding[0].detach())


def twin_branches(**config):
    """Return a model whose student sees in one image what its teacher sees in two, and whose branches are equal."""
    model = make({"a": 1, "b": 1}, **config).eval()
    model.compensators["m_a"].load_state_dict(model.encoders["m_b"].state_dict())
    model.branches["s10"].load_state_dict(model.branches["full"].state_dict())
    if model.pools_teacher is not None:
        model.pools_teacher.load_state_dict(model.pools_student["s10"].state_dict())
    image = torch.randn(2, 1, 32, 32)
    return model, {"a": image, "b": image}


@pytest.mark.parametrize("config", [{}, paper(image_size=[32, 32])], ids=["default", "paper"])
def test_nothing_is_distilled_between_identical_branches(config):
    model, images = twin_branches(**config)
    with torch.no_grad():
        losses = model.objective(images, target_for(images), ["a"])
    assert float(losses["kd"]) == pytest.approx(0.0, abs=1e-10)
    torch.testing.assert_close(losses["full"], losses["student"])
    model.branches["s10"].decoder.final.bias.data[0] += 1.0
    with torch.no_grad():
        assert model.objective(images, target_for(images), ["a"])["kd"] > 1e-3


def test_the_divergence_is_one_a_level_for_what_is_identical():
    model, images = make().eval(), draw()
    model.compensators["m_rgb"].load_state_dict(model.encoders["m_rgb"].state_dict())
    model.pools_compensatory["m_rgb"].load_state_dict(model.pools_available["m_rgb"].state_dict())
    with torch.no_grad():
        assert float(model.objective(images, target_for(images), ["rgb"])["div"]) == pytest.approx(3.0, rel=1e-5)
        assert 0.0 <= model.objective(images, target_for(images), ["ndsm"])["div"] < 2.99


@pytest.mark.parametrize("config", [{}, paper(image_size=[32, 48])], ids=["default", "paper"])
def test_the_distillation_teaches_the_student_alone(config):
    model, images = make(**config).train(), draw()
    model.objective(images, target_for(images), ["rgb"])["kd"].backward()
    reached = {".".join(path.split(".")[:2]) for path, item in model.named_parameters() if item.grad is not None}
    assert reached == {"branches.s10", "encoders.m_rgb", "compensators.m_rgb", "pools_student.s10"}


def test_the_total_is_the_sum_of_its_parts_and_distils_late():
    model, images = make(distillation_start=2).train(), draw()
    target = target_for(images)
    sums = ("unimodal", "full", "full_scales", "student", "student_scales", "div")
    assert model.epoch is None and model._distillation_weight() == 5.0
    for epoch, weight in ((0, 0.0), (1, 0.0), (2, 5.0), (7, 5.0)):
        model.start_epoch(epoch)
        losses = model.losses(images, target)
        wanted = sum(losses[key] for key in sums) + weight * losses["kd"]
        torch.testing.assert_close(losses["total"], wanted)
        parts = losses["kd_features"] + losses["kd_penultimate"] + 0.2 * losses["kd_logits"]
        torch.testing.assert_close(losses["kd"], parts)


def test_five_classes_weigh_in_the_distillation_as_published():
    model, images = make(classes=5).eval(), draw()
    published = make(classes=5, class_mean=True, logit_weight=1.0).eval()
    published.load_state_dict(model.state_dict())
    with torch.no_grad():
        both = [item.objective(images, target_for(images), ["rgb"])["kd"] for item in (model, published)]
    torch.testing.assert_close(*both)


def test_a_scene_that_lacks_a_modality_trains_its_own_student():
    modalities = {name: ALL[name] for name in ("optical", "sar", "dsm")}
    model, images = make(modalities).train(), draw(modalities, (32, 32))
    del images["sar"]
    losses = model.losses(images, target_for(images))
    assert set(losses) == {"unimodal", "student", "student_scales", "total"}
    losses["total"].backward()
    reached = {".".join(path.split(".")[:2]) for path, item in model.named_parameters() if item.grad is not None}
    assert {path for path in reached if path.startswith("branches")} == {"branches.s101"}


def test_a_single_modality_has_no_student():
    model, images = make({"dsm": 1}).train(), draw({"dsm": 1})
    losses = model.losses(images, target_for(images))
    assert set(losses) == {"unimodal", "full", "full_scales", "total"}


def test_students_are_drawn_as_asked():
    generator = torch.Generator().manual_seed(0)
    published = make(student_draw="paper")
    drawn = [published._draw_student(generator) for _ in range(2000)]
    assert set(drawn) == {("rgb",), ("ndsm",)}
    assert drawn.count(("ndsm",)) / 2000 == pytest.approx(0.6, abs=0.04)
    three = make({name: ALL[name] for name in ("optical", "sar", "dsm")}, student_draw="paper")
    drawn = [three._draw_student(generator) for _ in range(3000)]
    assert [drawn.count(names) / 3000 for names in three.student_scenarios()] == pytest.approx([1 / 6] * 6, abs=0.03)


def test_half_precision_stays_close():
    model, images = make().eval(), draw()
    with torch.no_grad():
        full = model(images)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(images)
    assert (full - half.float()).abs().mean() < 0.02 * full.abs().mean()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"image_size": [32]}, "image_size is [32]"),
        ({"image_size": [32, 40]}, "multiples of 16"),
        ({"image_size": [0, 32]}, "image_size is [0, 32]"),
        ({"head_widths": [4]}, "head_widths is [4]"),
        ({"width": 0}, "width is 0"),
        ({"pool_width": 0}, "pool_width is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"distillation_weight": -1.0}, "distillation_weight is -1.0"),
        ({"norm": "batch"}, "norm = 'batch'"),
        ({"gf": 32}, "'gf'"),
    ],
)
def test_bad_configurations_are_refused(config, said):
    with pytest.raises(LacunaError) as caught:
        make(**config)
    assert caught.value.code == "bad-config" and said in caught.value.text


def test_logits_are_as_stored(image, fill_model, as_stored):
    for case, modalities in (("branches", {"optical": 4, "sar": 2, "dsm": 1}), ("shared", ALL)):
        model = fill_model(make(modalities))
        images = {name: image(51 + seed, (1, modalities[name], 20, 36)) for seed, name in enumerate(modalities)}
        for names in [[*modalities], ["sar", "dsm"], ["dsm"]]:
            as_stored("dis2", f"{case}_{'_'.join(names)}", model, {name: images[name] for name in names})
