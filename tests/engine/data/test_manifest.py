# SPDX-License-Identifier: GPL-2.0-or-later
"""The manifest: what the contract shows is read as it says, and every mistake is told by file and key."""

from __future__ import annotations

import os

import pytest

from lacuna.engine.data.manifest import SplitRule, read_manifest
from lacuna.engine.errors import LacunaError
from lacuna.engine.jobs import SourceSpec

CONTRACT = """
reference = "rgb"                                   # whose grid the labels and the output follow
ignore = [0]
classes = [{value = 1, name = "Pinus", color = "#1b7837"}, {value = 2, name = "Quercus", color = "#e08214"}]
[modalities.rgb]
bands = ["red", "green", "blue"]
units = "digital number"
scaling = {type = "z_score", mean = [95.0, 102.0, 80.0], std = 50.0}
resampling = "bilinear"
nodata = -3.4e38
required = false
[modalities.chm]
bands = ["height"]
[split]
method = "group"
block = 64
gap = 16
validation = 0.2
seed = 0
[[scenes]]
name = "MLBS_1"
group = "MLBS_1"
split = "train"
sources = {rgb = "rgb/MLBS_1.tif", chm = "chm/MLBS_1.tif"}
labels = "labels/MLBS_1.tif"
extent = [541000.0, 4136000.0, 541020.0, 4136020.0]
"""


@pytest.fixture
def read(tmp_path):
    def parse(text):
        path = tmp_path / "scenes.toml"
        path.write_text(text)
        return read_manifest(str(path))

    return parse


def test_the_example_of_the_contract(read, tmp_path):
    manifest = read(CONTRACT)
    assert manifest.reference == "rgb"
    assert manifest.ignore == [0]
    assert [(item.value, item.name, item.color) for item in manifest.classes] == [
        (1, "Pinus", "#1b7837"),
        (2, "Quercus", "#e08214"),
    ]
    rgb, chm = manifest.modalities
    assert (rgb.name, rgb.bands, rgb.units) == ("rgb", ["red", "green", "blue"], "digital number")
    assert rgb.scaling == [{"type": "z_score", "mean": [95.0, 102.0, 80.0], "std": 50.0}]
    assert (rgb.resampling, rgb.nodata, rgb.required) == ("bilinear", -3.4e38, False)
    assert (chm.bands, chm.scaling, chm.resampling, chm.nodata) == (["height"], [], "bilinear", None)
    assert manifest.split == SplitRule("group", 64, 16, 0.2, 0)
    (scene,) = manifest.scenes
    assert scene.sources == {"rgb": str(tmp_path / "rgb/MLBS_1.tif"), "chm": str(tmp_path / "chm/MLBS_1.tif")}
    assert scene.labels == str(tmp_path / "labels/MLBS_1.tif")
    assert (scene.group, scene.split, scene.field) == ("MLBS_1", "train", None)
    assert scene.extent == (541000.0, 4136000.0, 541020.0, 4136020.0)
    assert manifest.name == "scenes"


def test_paths_are_relative_to_the_manifest_wherever_one_stands(read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    text = CONTRACT.replace('"labels/MLBS_1.tif"', '"../up/labels.tif"').replace('"chm/MLBS_1.tif"', '"/abs/chm.tif"')
    (scene,) = read(text).scenes
    assert scene.labels == os.path.normpath(tmp_path.parent / "up/labels.tif")
    assert scene.sources["chm"] == "/abs/chm.tif"


def test_what_may_be_left_out(read):
    text = """
        reference = "chm"
        classes = [{value = 0, name = "a"}, {value = 7, name = "b"}]
        [modalities.chm]
        bands = ["height"]
        scaling = [{type = "clip", minimum = 0, maximum = 40}, {type = "min_max", minimum = 0, maximum = 40}]
        [[scenes]]
        name = "s"
        sources = {chm = "chm.tif"}
        labels = "crowns.gpkg"
        field = "genus"
    """
    manifest = read(text)
    assert manifest.split == SplitRule()
    assert manifest.ignore == []
    assert len({item.color for item in manifest.classes}) == 2
    assert [step["type"] for step in manifest.modalities[0].scaling] == ["clip", "min_max"]
    (scene,) = manifest.scenes
    assert (scene.group, scene.field, scene.extent, scene.split) == ("s", "genus", None, None)


WRONG = [
    ("reference = ", "refrence = ", "refrence"),
    ('reference = "rgb"', 'reference = "sar"', "reference = 'sar'"),
    ('reference = "rgb"', "reference = 3", "reference = 3"),
    ('units = "digital number"', 'unit = "digital number"', "modalities.rgb.unit"),
    ("block = 64", "blocks = 64", "split.blocks"),
    ("block = 64", "block = 0", "split.block = 0"),
    ("gap = 16", "gap = -1", "split.gap = -1"),
    ("validation = 0.2", "validation = 1.0", "split.validation = 1.0"),
    ("validation = 0.2", "validation = true", "split.validation = True"),
    ('method = "group"', 'method = "random"', "split.method = 'random'"),
    ("seed = 0", "seed = -1", "split.seed = -1"),
    ('split = "train"', 'split = "training"', "scenes[1].split = 'training'"),
    ('split = "train"', 'side = "train"', "scenes[1].side"),
    ('labels = "labels/MLBS_1.tif"', "", "scenes[1].labels"),
    ('labels = "labels/MLBS_1.tif"', "labels = 3", "scenes[1].labels = 3"),
    ('{rgb = "rgb/MLBS_1.tif", chm = "chm/MLBS_1.tif"}', '{sar = "s.tif"}', "scenes[1].sources"),
    ('{rgb = "rgb/MLBS_1.tif", chm = "chm/MLBS_1.tif"}', "{}", "scenes[1].sources"),
    ('{rgb = "rgb/MLBS_1.tif", chm = "chm/MLBS_1.tif"}', "{rgb = 1}", "scenes[1].sources.rgb = 1"),
    ("[541000.0, 4136000.0, 541020.0, 4136020.0]", "[541000.0, 4136000.0]", "scenes[1].extent"),
    ("[541000.0, 4136000.0, 541020.0, 4136020.0]", "[2.0, 0.0, 1.0, 1.0]", "scenes[1].extent"),
    ("ignore = [0]", "ignore = [1]", "lists 1 under ignore"),
    ("ignore = [0]", 'ignore = ["pinus"]', "lists 'pinus' under ignore"),
    ("ignore = [0]", "ignore = [0.5]", "ignore = [0.5]"),
    ('name = "Quercus"', 'name = "pinus"', "two classes named"),
    ("value = 2", "value = 1", "value of its own"),
    ("value = 2", "value = 2.5", "classes[2].value = 2.5"),
    ('color = "#e08214"', 'color = "orange"', "colour"),
    ('color = "#e08214"', 'colour = "#e08214"', "classes[2].colour"),
    ("std = 50.0", "std = 0.0", "std above 0"),
    ("mean = [95.0, 102.0, 80.0]", "mean = [95.0, 102.0]", "one for each of 3 bands"),
    ('type = "z_score"', 'type = "zscore"', "zscore"),
    ('resampling = "bilinear"', 'resampling = "lanczos"', "modalities.rgb.resampling = 'lanczos'"),
    ("required = false", 'required = "no"', "modalities.rgb.required = 'no'"),
    ('bands = ["height"]', "bands = []", "bands"),
    ('bands = ["height"]', "bands = [1]", "modalities.chm.bands = [1]"),
    ("[modalities.chm]", '[modalities."1 chm"]', "1 chm"),
    ('reference = "rgb" ', 'reference = "rgb', "no TOML"),
]


@pytest.mark.parametrize(("right", "wrong", "named"), WRONG, ids=[wrong or named for _, wrong, named in WRONG])
def test_every_mistake_is_named_with_file_and_key(read, tmp_path, right, wrong, named):
    assert right in CONTRACT
    text = CONTRACT.replace(right, wrong, 1)
    if "1 chm" in wrong:
        text = text.replace(', chm = "chm/MLBS_1.tif"', "")
    with pytest.raises(LacunaError) as caught:
        read(text)
    assert caught.value.code == "bad-manifest"
    assert str(tmp_path / "scenes.toml") in caught.value.text
    assert named in str(caught.value)
    assert caught.value.hint


MORE = """
bands = {rgb = [3, 2, 1], chm = ["height"]}
mask = {rgb = "clouds.tif"}
nodata = {chm = -9999.0}
offset = {rgb = -1000}
"""


def test_a_scene_says_how_its_rasters_are_read(read, tmp_path):
    (scene,) = read(CONTRACT + MORE).scenes
    rgb, chm = scene.specs()["rgb"], scene.specs()["chm"]
    assert (rgb.bands, rgb.mask, rgb.offset, rgb.nodata) == ([3, 2, 1], str(tmp_path / "clouds.tif"), -1000, None)
    assert (chm.bands, chm.nodata, chm.mask) == (["height"], -9999.0, None)
    assert str(tmp_path / "clouds.tif") in scene.rasters()


@pytest.mark.parametrize(
    ("right", "wrong", "named"),
    [
        ("[3, 2, 1]", "[]", "bands.rgb = []"),
        ("[3, 2, 1]", "[true]", "bands.rgb = [True]"),
        ("{chm = -9999.0}", "{sar = 0.0}", "numbers for one or more of the sources rgb, chm"),
        ('{rgb = "clouds.tif"}', '{sar = "clouds.tif"}', "rasters for one or more of the sources rgb, chm"),
        ('{rgb = "clouds.tif"}', "{rgb = 1}", "mask.rgb = 1"),
    ],
)
def test_what_a_scene_says_wrongly_is_named(read, right, wrong, named):
    with pytest.raises(LacunaError) as caught:
        read(CONTRACT + MORE.replace(right, wrong, 1))
    assert caught.value.code == "bad-manifest" and named in str(caught.value)


def test_names_that_gdal_opens_by_a_driver_stay_as_they_are(read):
    (scene,) = read(CONTRACT.replace("rgb/MLBS_1.tif", "NETCDF:/data/a.nc:red")).scenes
    assert scene.specs()["rgb"].path == "NETCDF:/data/a.nc:red"


def test_a_class_map_leads_to_classes_by_name(read):
    manifest = read('class_map = {"pine 1" = "PINUS", "7" = "Quercus", "8" = ""}\n' + CONTRACT)
    assert manifest.class_map == {"pine 1": "Pinus", "7": "Quercus", "8": ""}
    with pytest.raises(LacunaError, match=r"class_map\.7 = 'Acer'.*Pinus, Quercus"):
        read('class_map = {"7" = "Acer"}\n' + CONTRACT)


def test_blocks_are_left_to_the_labels_only_where_nothing_else_is_said_of_them(read):
    left = CONTRACT.replace('method = "group"\nblock = 64\ngap = 16\n', 'method = "block"\nfit = true\n')
    assert read(left).fitted and not read(CONTRACT).fitted
    for wrong in (left.replace('method = "block"\n', ""), left.replace("fit = true", "fit = true\ngap = 8")):
        with pytest.raises(LacunaError, match="fit"):
            read(wrong)


def test_what_a_manifest_says_does_not_depend_on_where_labels_lie(read):
    first = read(CONTRACT)
    assert read(CONTRACT.replace("labels/MLBS_1.tif", "elsewhere.tif")).content() == first.content()
    assert read(CONTRACT.replace("rgb/MLBS_1.tif", "elsewhere.tif")).content() != first.content()


def test_scenes_of_one_group_stay_on_one_side(read):
    second = CONTRACT[CONTRACT.index("[[scenes]]") :].replace('name = "MLBS_1"', 'name = "other"')
    read(CONTRACT + second)
    with pytest.raises(LacunaError, match="MLBS_1"):
        read(CONTRACT + second.replace('split = "train"', 'split = "test"'))


def test_scenes_have_names_of_their_own(read):
    with pytest.raises(LacunaError, match="two scenes named 'MLBS_1'"):
        read(CONTRACT + CONTRACT[CONTRACT.index("[[scenes]]") :])


def test_a_manifest_that_is_not_there(tmp_path):
    with pytest.raises(LacunaError) as caught:
        read_manifest(str(tmp_path / "none.toml"))
    assert caught.value.code == "file-missing"
    with pytest.raises(LacunaError) as caught:
        read_manifest(str(tmp_path))
    assert caught.value.code == "file-unreadable"


def test_scenes_without_a_split_are_divided_by_rule_unless_others_name_validation(read):
    head, scene = CONTRACT[: CONTRACT.index("[split]")], CONTRACT[CONTRACT.index("[[scenes]]") :]
    table = CONTRACT[CONTRACT.index("[split]") : CONTRACT.index("[[scenes]]")]
    free = scene.replace('split = "train"', "").replace("MLBS_1", "free")
    named = scene.replace('split = "train"', 'split = "validation"')
    assert read(head + scene + free).split == SplitRule()
    assert read(head + named + free).split is None
    assert read(head + table + named + free).split == SplitRule()


def test_texts_may_be_ignored_as_well_as_values(read):
    assert read(CONTRACT.replace("ignore = [0]", 'ignore = [0, "Carya"]')).ignore == [0, "Carya"]


def test_sources_are_read_with_the_changes_that_a_scene_names(read, tmp_path):
    changed = CONTRACT + "offset = {rgb = -1000.0}\nscale = {rgb = 0.5, chm = 2}\n"
    (scene,) = read(changed).scenes
    path = str(tmp_path / "rgb/MLBS_1.tif")
    assert scene.sources["rgb"] == SourceSpec(path, offset=-1000.0, scale=0.5)
    assert scene.specs()["chm"].scale == 2 and scene.specs()["chm"].offset is None
    assert path in scene.files()


@pytest.mark.parametrize("line", ["offset = {dsm = 1.0}", 'scale = {rgb = "2"}', "offset = -1000.0"])
def test_changes_of_no_source_are_refused(read, line):
    with pytest.raises(LacunaError) as caught:
        read(CONTRACT + line + "\n")
    assert caught.value.code == "bad-manifest" and line.split()[0] in caught.value.text
