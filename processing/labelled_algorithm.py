# SPDX-License-Identifier: GPL-2.0-or-later
"""What the algorithms that need labels share: polygons with a field, a raster of classes, or a manifest of scenes."""

from __future__ import annotations

from typing import Any, Optional

from qgis.core import (
    QgsProcessing,
    QgsProcessingContext,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
)

from ..compat import tr
from ..engine.errors import UsageError
from ..host.binding import gdal_name, source_specs
from ..host.exports import Exports
from .scene_algorithm import SceneAlgorithm


class LabelledAlgorithm(SceneAlgorithm):
    """Reads the labels of a scene, or a manifest in place of scene and labels, and writes a report."""

    LABELS = "LABELS"
    FIELD = "FIELD"
    LABELS_RASTER = "LABELS_RASTER"
    MANIFEST = "MANIFEST"
    CLASS_MAP = "CLASS_MAP"
    SEED = "SEED"
    REPORT = "REPORT"

    def labels_help(self) -> str:
        """Return what the dialog says of the labels."""
        return tr(
            "<p><b>Labels</b>: polygons with the <b>field</b> of their class (text is matched to class names, a "
            "number to class values; if the layer has a selection, the dialog can take only the selected polygons), or "
            "a <b>raster of class values</b>; in any CRS, on any grid. Unlabelled pixels are ignored. A "
            "<b>manifest</b> (TOML) names scenes with their rasters and labels instead.</p>"
            "<p><b>Class map</b>: which class each label value means, <code>wheat=Crops,3=Trees</code>; "
            "<code>VALUE=</code> ignores a value.</p>"
        )

    def add_labels(self) -> None:
        """Declare the labels."""
        polygons = [QgsProcessing.SourceType.TypeVectorPolygon]
        self.addParameter(
            QgsProcessingParameterFeatureSource(self.LABELS, tr("Labels (polygons)"), polygons, optional=True)
        )
        field = tr("Field with the class of each polygon")
        self.addParameter(
            QgsProcessingParameterField(self.FIELD, field, parentLayerParameterName=self.LABELS, optional=True)
        )
        self.addParameter(
            QgsProcessingParameterRasterLayer(self.LABELS_RASTER, tr("Labels (raster of class values)"), optional=True)
        )
        self.addParameter(
            QgsProcessingParameterFile(
                self.MANIFEST, tr("Manifest, instead of rasters and labels"), extension="toml", optional=True
            )
        )
        class_map = tr("Class map (VALUE=CLASS,...)")
        self.addParameter(QgsProcessingParameterString(self.CLASS_MAP, class_map, optional=True))

    def seed(self, words: str) -> QgsProcessingParameterNumber:
        """Return the parameter of the seed, whose subject is `words`."""
        return QgsProcessingParameterNumber(
            self.SEED, words, QgsProcessingParameterNumber.Type.Integer, 0, optional=True, minValue=0
        )

    def add_report(self) -> None:
        """Declare the report."""
        self.addParameter(
            QgsProcessingParameterFileDestination(self.REPORT, tr("Report"), "HTML (*.html)", optional=True)
        )

    def outputs(self, parameters: dict[str, Any], context: QgsProcessingContext) -> dict[str, Optional[str]]:
        """Return the path of the report."""
        return {"report": self.destination(parameters, self.REPORT, context, ".html")}

    def data(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> dict[str, Any]:
        """Return the rasters and their labels, or the manifest, as fields of a job.

        Raises:
            LacunaError: layers that cannot serve; neither or more than one kind of labels; polygons without a field.
        """
        card = self.card(parameters, context)
        manifest = self.parameterAsFile(parameters, self.MANIFEST, context)
        bindings = self.bindings(parameters, context, card, needed=not manifest)
        labels = self._labels(parameters, context, exports)
        if manifest:
            if bindings or labels:
                raise UsageError(
                    "bad-value",
                    tr("MANIFEST is given together with rasters or labels."),
                    tr("Leave one of the two out: a manifest names its rasters and labels."),
                )
            return {"manifest": manifest}
        if not labels:
            raise UsageError(
                "no-labels",
                tr("No labels are given: neither LABELS nor LABELS_RASTER nor MANIFEST."),
                tr("Choose polygons with a field, a raster of class values, or a manifest."),
            )
        return {"modalities": source_specs(card, bindings, exports), **labels}

    def _labels(self, parameters: dict[str, Any], context: QgsProcessingContext, exports: Exports) -> dict[str, Any]:
        """Return the labels of a scene as fields of a job, empty where none are given."""
        polygons = self.polygons(parameters, self.LABELS, context)
        raster = self.raster(parameters, self.LABELS_RASTER, context)
        field = self.parameterAsString(parameters, self.FIELD, context)
        if polygons is not None and raster is not None:
            text, hint = tr("LABELS and LABELS_RASTER are both given."), tr("Leave one of the two out.")
            raise UsageError("bad-value", text, hint)
        if polygons is None:
            if field:
                text = tr("FIELD is given ({}), but no polygons are.").format(field)
                raise UsageError("bad-value", text, tr("Choose a polygon layer as LABELS, or leave FIELD out."))
            return {} if raster is None else {"labels": gdal_name(raster) or exports.raster(raster)}
        known = [item.name() for item in polygons.fields()]
        if field not in known:
            text = tr("LABELS has no field “{}”.").format(field) if field else tr("LABELS is given without FIELD.")
            fields = ", ".join(known) or tr("none")
            hint = tr("Choose the field that holds the class of each polygon; the layer has: {}.").format(fields)
            raise UsageError("no-field", text, hint)
        path = exports.polygons(polygons, polygons.sourceCrs(), fields=[field], name=polygons.sourceName())
        return {"labels": path, "field": field}
