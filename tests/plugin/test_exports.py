# SPDX-License-Identifier: GPL-2.0-or-later
"""Temporary files for the engine: polygons with the fields that are wanted, and texts."""

from __future__ import annotations

from pathlib import Path

import pytest
from qgis.core import QgsFeature, QgsFeatureRequest, QgsGeometry, QgsRectangle, QgsVectorLayer
from qgis.core import QgsVectorLayerFeatureSource as FeatureSource

from lacuna.engine.errors import LacunaError
from lacuna.host.exports import Exports


@pytest.fixture
def fields_layer(qgis_app):
    """Return a memory layer of three squares, one of them without a class."""
    layer = QgsVectorLayer("Polygon?crs=EPSG:32722&field=id:integer&field=crop:string", "fields", "memory")
    for number, crop in enumerate(("wheat", "forest", None)):
        feature = QgsFeature(layer.fields())
        feature.setAttributes([number, crop])
        feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(10 * number, 0, 10 * number + 5, 5)))
        layer.dataProvider().addFeature(feature)
    return layer


@pytest.fixture
def exports():
    """Return exports whose files are removed in the end."""
    exports = Exports()
    yield exports
    exports.remove()


def written(exports, path):
    """Return the layer that was written to `path`."""
    exports.write(lambda: False)
    layer = QgsVectorLayer(path, "written")
    assert layer.isValid()
    return layer


def test_polygons_are_written_with_the_fields_that_are_wanted(exports, fields_layer):
    path = exports.polygons(FeatureSource(fields_layer), fields_layer.crs(), fields=["crop"])
    layer = written(exports, path)
    assert [field.name() for field in layer.fields()] == ["fid", "crop"]
    assert [feature["crop"] or None for feature in layer.getFeatures()] == ["wheat", "forest", None]
    assert layer.crs().authid() == "EPSG:32722"


def test_polygons_are_written_without_fields_unless_wanted(exports, fields_layer):
    request = QgsFeatureRequest().setFilterFids([1, 2])
    layer = written(exports, exports.polygons(FeatureSource(fields_layer), fields_layer.crs(), request))
    assert [field.name() for field in layer.fields()] == ["fid"]
    assert layer.featureCount() == 2


def test_polygons_are_called_after_their_layer(exports, fields_layer):
    source = FeatureSource(fields_layer)
    paths = [
        exports.polygons(source, fields_layer.crs(), name=name)
        for name in ("Wald: 2026/05", "Wälder", "Wälder", "", "/")
    ]
    assert [Path(path).name for path in paths] == [
        "Wald_2026_05.gpkg", "Wälder.gpkg", "Wälder.gpkg", "layer.gpkg", "layer.gpkg",
    ]  # fmt: skip
    assert len(set(paths)) == len(paths)
    exports.write(lambda: False)
    assert all(QgsVectorLayer(path).isValid() for path in paths)


def test_texts_are_written_and_removed_with_the_rest(exports):
    path = exports.text("toml", 'method = "block"\n# Grüße\n')
    assert not Path(path).exists()
    exports.write(lambda: False)
    assert Path(path).read_text(encoding="utf-8") == 'method = "block"\n# Grüße\n'
    exports.remove()
    assert not Path(path).parent.exists()


def test_a_layer_without_a_polygon_is_refused(exports):
    empty = QgsVectorLayer("Polygon?crs=EPSG:32722", "none", "memory")
    exports.polygons(FeatureSource(empty), empty.crs())
    with pytest.raises(LacunaError, match="no polygon"):
        exports.write(lambda: False)
