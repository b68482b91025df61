# SPDX-License-Identifier: GPL-2.0-or-later
"""Published weights come in by the command line and then compute on rasters what the published codes compute."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import safetensors.torch
import torch

from lacuna.engine import cli
from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.header import read_header, sha256
from lacuna.engine.checkpoint.store import load
from lacuna.engine.imports.encoder_file import load_encoder
from lacuna.engine.models import registry
from lacuna.engine.models.encoders import build_encoder

DIS2 = {"rgb": ["red", "green", "blue"], "ndsm": ["height"]}
CMX = {"rgb": ["red", "green", "blue"], "x": ["one", "two", "three"]}
FILE = r"\w+\.(safetensors|pth|json|tif)"
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


@pytest.fixture
def lacuna(tmp_path, capsys):
    """A function that runs a command, bare names of files in the test's folder, and returns status and words."""

    def run(*arguments):
        status = cli.main([str(tmp_path / item) if re.fullmatch(FILE, item) else item for item in arguments])
        said = capsys.readouterr()
        return status, said.out + said.err

    return run


@pytest.fixture
def write_card(tmp_path):
    """A function that writes the card of an import; keys given as None are left out."""

    def write(name, config, inputs, count=5, /, **keys):
        values = {
            "architecture": {"name": name, "config": config},
            "modalities": [{"name": key, "bands": bands, "scaling": {"type": "none"}} for key, bands in inputs.items()],
            "classes": [{"value": value, "name": f"class {value}"} for value in range(count)],
            **keys,
        }
        found = {key: value for key, value in values.items() if value is not None}
        (tmp_path / "card.json").write_text(json.dumps(found))

    return write


@pytest.fixture
def run_import(lacuna, tmp_path):
    """A function that saves weights, imports them as a network, and returns what was said."""

    def run(name, weights):
        torch.save(weights, tmp_path / "weights.pth")
        status, said = lacuna("import", name, "weights.pth", "--card", "card.json", "--output", "model.safetensors")
        assert status == 0, said
        return said

    return run


@pytest.fixture
def probabilities(lacuna, write_raster, read, tmp_path):
    """A function that segments images (C, h, w) by name with the imported model, as float32 (K, h, w)."""

    def compute(images, *options):
        paths = {name: write_raster(f"{name}.tif", values) for name, values in images.items()}
        bound = [item for name, path in paths.items() for item in ("--modality", f"{name}={path}")]
        status, said = lacuna(
            "segment", "--checkpoint", "model.safetensors", *bound, "--output", "classes.tif", "--probabilities",
            "probabilities.tif", "--probabilities-dtype", "float32", "--overlap", "0", "--overwrite", *options,
        )  # fmt: skip
        assert status == 0, said
        return read(tmp_path / "probabilities.tif")

    return compute


@pytest.mark.parametrize("sample", [0, 1])
@pytest.mark.slow
def test_dis2_computes_on_rasters_what_the_published_code_does(
    reference, image, write_card, run_import, probabilities, sample
):
    arrays, weights = reference("dis2_k5_64x64")
    write_card("dis2", {"image_size": [64, 64]}, DIS2)
    run_import("dis2", weights)
    values = image(1, (2, 4, 64, 64)).numpy()[sample]
    images = {"rgb": values[:3], "ndsm": values[3:]}
    for scenario, names in {"full": ["rgb", "ndsm"], "no_ndsm": ["rgb"], "no_rgb": ["ndsm"]}.items():
        found = probabilities({name: images[name] for name in names})
        np.testing.assert_allclose(found, arrays[f"prob_{scenario}"][sample], **CLOSE)


@pytest.mark.parametrize("sample", [0, 1])
@pytest.mark.slow
def test_cmx_computes_on_rasters_what_the_published_code_does(
    reference, image, write_card, run_import, probabilities, sample
):
    arrays, weights = reference("cmx_mit_b0_k5_64x96")
    write_card("cmx", {"encoder": "mit_b0", "head_width": 128}, CMX)
    run_import("cmx", weights)
    images = {name: image(seed, (2, 3, 64, 96)).numpy()[sample] for name, seed in (("rgb", 11), ("x", 12))}
    wanted = torch.from_numpy(arrays["logits"][sample]).softmax(0).numpy()
    np.testing.assert_allclose(probabilities(images, "--tile", "64,96"), wanted, **CLOSE)


def other_dis2(reference, fill):
    """Return weights of a DIS2 a quarter as wide, for 7 classes, 4 and 2 bands, and images of 32 x 48 pixels."""

    def shape_of(name, shape):
        if name.endswith("_pos"):
            return [1, 6, 64]
        if name.endswith(("e1.weight",)) and "_conv" not in name:
            return [8, 4 if name.startswith("rgb") else 2, 4, 4]
        return [side // 4 if side >= 32 else {5: 7, 20: 28}.get(side, side) for side in shape]

    found = {name: shape_of(name, value.shape) for name, value in reference("dis2_k5_64x64")[1].items()}
    for name in [name for name in found if "_layers.4." in name and ".seg_d" in name]:
        found.update({name.replace("_layers.4.", f"_layers.{number}."): found[name] for number in (5, 6)})
    return {name: fill(name, shape) for name, shape in found.items()}


def other_cmx(reference, fill):
    """Return weights of a CMX with a head of width 24, 7 classes, and 2 bands in the second stream."""
    found = {name: list(value.shape) for name, value in reference("cmx_mit_b0_k5_64x96")[1].items()}
    for name, shape in found.items():
        if name.startswith("decode_head."):
            found[name] = [{128: 24, 512: 96, 5: 7}.get(side, side) for side in shape]
    for level, width in enumerate((32, 64, 160, 256), start=1):
        found[f"decode_head.linear_c{level}.proj.weight"] = [24, width]
    found["backbone.extra_patch_embed1.proj.weight"][1] = 2
    return {name: fill(name, shape) for name, shape in found.items()}


# How to make the weights, the card's config, the bands, and the size of the image.
OTHERS = {
    "dis2": (other_dis2, {"image_size": [32, 48]}, {"rgb": list("abcd"), "ndsm": list("ef")}, (32, 48)),
    "cmx": (other_cmx, {"head_width": 24}, {"rgb": list("abc"), "x": list("de")}, (40, 56)),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.slow
def test_other_sizes_classes_and_widths(name, reference, fill, image, write_card, run_import, probabilities, tmp_path):
    make, config, modalities, size = OTHERS[name]
    weights = make(reference, fill)
    write_card(name, config, modalities, 7)
    run_import(name, weights)
    channels = {key: len(bands) for key, bands in modalities.items()}
    kind = registry.architecture(name)
    found, state = kind.import_published(weights, config, channels, 7)
    model = registry.build(name, found, channels, 7).eval()
    model.load_state_dict(state)
    images = {key: image(seed, (1, count, *size)) for seed, (key, count) in enumerate(channels.items(), start=71)}
    for names in [list(images), *([key] for key in images)]:
        with torch.no_grad():
            wanted = model({key: images[key] for key in names}).softmax(1)[0].numpy()
        tile = f"{size[0]},{size[1]}"
        read = probabilities({key: images[key][0].numpy() for key in names}, "--tile", tile)
        np.testing.assert_allclose(read, wanted, **CLOSE)
    assert len(np.unique(wanted.argmax(0))) > 1


@pytest.fixture
def dis2(reference):
    return reference("dis2_k5_64x64")[1]


def test_the_card_says_where_the_weights_come_from(dis2, write_card, run_import, tmp_path):
    write_card("dis2", {"image_size": [64, 64]}, DIS2)
    said = run_import("dis2", dis2)
    card = read_card(str(tmp_path / "model.safetensors"))
    assert card.parents == [sha256(str(tmp_path / "weights.pth"))]
    assert (card.licence, card.scores, card.calibration, card.name) == ("unknown", [], [], "weights")
    assert "licence" in said and "not known" in said
    assert (card.tile, card.stride, card.reference) == ([64, 64], 16, "rgb")
    assert "64 x 64" in card.description and "interpolated" in card.description
    assert card.architecture["config"]["image_size"] == [64, 64]
    assert card.training["imported_from"] == "weights.pth" and card.created
    assert not (tmp_path / "model.safetensors.part").exists()
    loaded, model = load(str(tmp_path / "model.safetensors"))
    assert loaded.modalities == card.modalities and model.modalities == {"rgb": 3, "ndsm": 1}


def test_what_the_given_card_says_is_kept_but_for_scores(dis2, write_card, run_import, tmp_path):
    keys = {
        "architecture": {"name": "dis2", "config": {"image_size": [64, 64]}},
        "reference": "ndsm", "tile": [128, 128], "margin": 20, "name": "a name", "licence": "MIT", "parents": ["00"],
        "description": "Words.", "scores": [{"available": ["rgb"], "miou": 0.9}], "scores_on": "somewhere",
    }  # fmt: skip
    write_card("dis2", {}, DIS2, **keys)
    said = run_import("dis2", dis2)
    card = read_card(str(tmp_path / "model.safetensors"))
    assert (card.reference, card.tile, card.margin, card.name) == ("ndsm", [128, 128], 20, "a name")
    assert card.licence == "MIT" and "The licence of" not in said
    assert card.parents == ["00", sha256(str(tmp_path / "weights.pth"))]
    assert card.description.startswith("Words. ")
    assert (card.scores, card.scores_on) == ([], "") and "Scores" in said


def test_without_an_architecture_the_command_tells_it(reference, write_card, run_import, tmp_path):
    write_card("cmx", {}, CMX, architecture=None)
    run_import("cmx", reference("cmx_mit_b0_k5_64x96")[1])
    card = read_card(str(tmp_path / "model.safetensors"))
    assert card.architecture["config"]["encoder"] == "mit_b0"
    assert card.tile == [512, 512] and "both inputs" in card.description


REFUSED = {
    "another architecture": ({"architecture": {"name": "cmx"}}, 1, "describes the architecture cmx"),
    "no image size": ({"architecture": {"name": "dis2"}}, 1, "no image_size"),
    "another image size": ({"architecture": {"name": "dis2", "config": {"image_size": [32, 64]}}}, 1, "[32, 64]"),
    "an unknown setting": ({"architecture": {"name": "dis2", "config": {"image_size": [64, 64], "a": 1}}}, 1, "'a'"),
    "fewer classes": ({"classes": [{"value": 1, "name": "a"}, {"value": 2, "name": "b"}]}, 1, "5 classes"),
    "no classes": ({"classes": None}, 1, "classes"),
    "no modalities": ({"modalities": None}, 1, "modalities"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.slow
def test_a_card_that_does_not_fit_is_refused(dis2, write_card, lacuna, tmp_path, case):
    keys, wanted, words = REFUSED[case]
    write_card("dis2", {"image_size": [64, 64]}, DIS2, **keys)
    torch.save(dis2, tmp_path / "weights.pth")
    status, said = lacuna("import", "dis2", "weights.pth", "--card", "card.json", "--output", "model.safetensors")
    assert status == wanted and words in said and said.count("\n") == 1
    assert not (tmp_path / "model.safetensors").exists()


def test_networks_need_a_card(lacuna, tmp_path):
    for name in ("dis2", "cmx"):
        status, said = lacuna("import", name, "weights.pth", "--output", "model.safetensors")
        assert status == 2 and "--card" in said
    status, said = lacuna("import", "dis2", "weights.pth", "--card", "card.json", "--output", "model.safetensors")
    assert status == 1 and "card.json does not exist" in said
    for text in ("{", "[]", '{"a": 1, "a": 2}'):
        (tmp_path / "card.json").write_text(text)
        status, said = lacuna("import", "dis2", "weights.pth", "--card", "card.json", "--output", "model.safetensors")
        assert status == 1 and "card.json is no JSON" in said


def test_outputs_are_guarded(lacuna, tmp_path):
    torch.save(published("resnet18"), tmp_path / "w.pth")
    (tmp_path / "e.safetensors").write_text("precious")
    status, said = lacuna("import", "resnet", "w.pth", "--output", "e.safetensors")
    assert status == 1 and "exists" in said
    status, said = lacuna("import", "resnet", "w.pth", "--output", "w.pth", "--overwrite")
    assert status == 1 and "one of the inputs" in said
    assert (tmp_path / "e.safetensors").read_text() == "precious"


def published(name, channels=3):
    """Return random weights of an encoder under its canonical names."""
    encoder = build_encoder(name, channels)
    return {encoder.published_name(key): value for key, value in encoder.state_dict().items()}


@pytest.mark.parametrize(("family", "name"), [("pvt_v2", "pvt_v2_b0"), ("mit", "mit_b0"), ("resnet", "resnet18")])
@pytest.mark.slow
def test_encoders_become_encoder_files(lacuna, tmp_path, family, name):
    weights = published(name)
    torch.save({"state_dict": {**weights, "head.weight": torch.zeros(10, 8), "fc.bias": torch.zeros(2)}, "epoch": 3},
               tmp_path / "w.pth")  # fmt: skip
    status, said = lacuna("import", family, "w.pth", "--output", "e.safetensors")
    assert status == 0 and name in said and "left out beside it: epoch" in said
    path = str(tmp_path / "e.safetensors")
    info, tensors = load_encoder(path)
    assert (info.name, info.channels, info.source, info.licence) == (name, 3, "w.pth", "unknown")
    assert info.parents == [sha256(str(tmp_path / "w.pth"))]
    assert set(tensors) == {key for key in weights if not key.endswith("num_batches_tracked")}
    assert all(torch.equal(value, weights[key]) for key, value in tensors.items())
    assert json.loads(read_header(path)["__metadata__"]["lacuna_encoder"])["name"] == name
    status, said = lacuna("segment", "--checkpoint", "e.safetensors", "--modality", "a=b", "--output", "c.tif")
    assert status == 1 and "weights of an encoder alone" in said


def test_an_encoder_of_another_kind_is_named(lacuna, tmp_path):
    safetensors.torch.save_file(published("mit_b0"), tmp_path / "w.safetensors")
    status, said = lacuna("import", "pvt_v2", "w.safetensors", "--output", "e.safetensors")
    assert status == 1 and "those of mit_b0" in said and "as mit" in said
    assert not (tmp_path / "e.safetensors").exists()


def test_the_card_of_an_encoder_is_not_used_and_this_is_said(lacuna, tmp_path):
    torch.save(published("pvt_v2_b0"), tmp_path / "w.pth")
    status, said = lacuna("import", "pvt_v2", "w.pth", "--card", "none.json", "--output", "e.safetensors")
    assert status == 0 and "none.json is not used" in said
