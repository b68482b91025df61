# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests inside QGIS share: the checkout as `lacuna`, whatever its folder is called, and small engines."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
_links = tempfile.TemporaryDirectory(prefix="lacuna-tests-")
(Path(_links.name) / "lacuna").symlink_to(CHECKOUT, target_is_directory=True)
# `python -m pytest` puts the checkout itself on the path, where its `processing` would hide that of QGIS.
sys.path[:] = [_links.name, *(entry for entry in sys.path if Path(entry or os.curdir).resolve() != CHECKOUT)]

SAMPLE = CHECKOUT / "resources" / "sample"
CHECKPOINT = CHECKOUT / "resources" / "checkpoints" / "landcover-s2-s1-dem.safetensors"
ENGINE_PYTHON = CHECKOUT / ".venv" / "bin" / "python"
# Milliseconds after which what a test waits for will not come.
WAIT = 120_000
# Torch's threads wait for each other by spinning; where other programs want the cores too, that makes an engine ten
# times as slow. Those of the tests sleep instead: as many threads, the same bits.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def plugins_folder() -> Path:
    """Return a folder of plugins that holds the checkout as `lacuna`."""
    return Path(_links.name)


@pytest.fixture(autouse=True)
def clean_settings(monkeypatch, qgis_app):
    """Start every test without settings of Lacuna and without a variable that names an interpreter."""
    from qgis.core import QgsSettings

    monkeypatch.delenv("LACUNA_PYTHON", raising=False)
    QgsSettings().remove("lacuna")
    yield
    QgsSettings().remove("lacuna")


@pytest.fixture(scope="session")
def checkout_python() -> str:
    """Return the interpreter of the engine's own environment, as a developer's checkout has it."""
    python = os.environ.get("LACUNA_TEST_PYTHON", str(ENGINE_PYTHON))
    if not Path(python).exists():
        pytest.fail(f"{python} does not exist: run `make setup`")
    return python


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory) -> str:
    """Return an interpreter without torch; the system's own may have Debian's."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    return str(folder / "bin" / "python")


@pytest.fixture
def engine_python(checkout_python, monkeypatch) -> str:
    """Let the plugin take the interpreter of the engine's own environment."""
    monkeypatch.setenv("LACUNA_PYTHON", checkout_python)
    return checkout_python


@pytest.fixture(scope="session")
def brief_python(checkout_python, tmp_path_factory) -> str:
    """Return an interpreter that runs the engine by way of `brief_engine`, and all else as the engine's own does."""
    script = tmp_path_factory.mktemp("brief") / "python"
    brief = Path(__file__).with_name("brief_engine.py")
    script.write_text(
        f'#!/bin/sh\ncase "$1" in\n*/engine) exec "{checkout_python}" "{brief}" "$@" ;;\nesac\n'
        f'exec "{checkout_python}" "$@"\n'
    )
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def brief_engine(engine_python, brief_python, monkeypatch):
    """Let the plugin take the engine whose forests and detail paths are small."""
    monkeypatch.setenv("LACUNA_PYTHON", brief_python)


@pytest.fixture(scope="session", autouse=True)
def kept_reports():
    """Let every dock ask its interpreter what it has, as in use, but keep the answer for the docks that come later."""
    from lacuna.host import interpreters

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreters, "check", functools.lru_cache(maxsize=None)(interpreters.check))
        yield


@pytest.fixture
def qtbot(qtbot):
    """Return pytest-qt's robot, which waits as long as a machine with much else to do may need."""
    for name in ("waitSignal", "waitUntil"):
        setattr(qtbot, name, functools.partial(getattr(qtbot, name), timeout=WAIT))
    return qtbot


@pytest.fixture
def job(tmp_path):
    """Return a job whose outputs lie in a temporary folder; for engines that only speak the protocol."""
    from lacuna.engine.jobs import SegmentJob, SourceSpec

    return SegmentJob(
        checkpoint="c.safetensors",
        modalities={"optical": SourceSpec("s2.tif")},
        output=str(tmp_path / "classes.tif"),
        confidence=str(tmp_path / "confidence.tif"),
    )


@pytest.fixture
def engine(tmp_path):
    """Return a function that writes a small engine, a real process that speaks the protocol, and how to start it."""

    def write(body: str) -> list[str]:
        script = tmp_path / "engine.py"
        script.write_text(
            "import json, os, signal, sys, time\n"
            "from pathlib import Path\n"
            "def say(**event): print(json.dumps(event), flush=True)\n"
            "job = json.loads(sys.stdin.readline())\n" + body
        )
        return [str(script)]

    return write


@pytest.fixture(scope="session")
def checkpoint() -> str:
    """Return the path of the bundled checkpoint."""
    return str(CHECKPOINT)


@pytest.fixture
def sample(qgis_new_project) -> dict:
    """Return the layers of the sample scene in a new project, by modality of the bundled checkpoint."""
    from qgis.core import QgsProject, QgsRasterLayer

    layers = {}
    for modality, name in (("elevation", "dem"), ("radar", "s1"), ("optical", "s2")):
        layers[modality] = QgsRasterLayer(str(SAMPLE / f"{name}.tif"), name)
        assert layers[modality].isValid(), SAMPLE / f"{name}.tif"
        QgsProject.instance().addMapLayer(layers[modality])
    return layers


@pytest.fixture
def write_layer(sample, tmp_path):
    """Return a function that writes an array (bands, h, w) as a GeoTIFF and adds its layer to the project.

    It lies where the raster `like` begins, with pixels as large; `dress` gets the dataset, to add names and tags.
    """
    from osgeo import gdal
    from qgis.core import QgsProject, QgsRasterLayer

    def write(name, values, like="optical", kind=gdal.GDT_Float32, dress=None):
        path, model = str(tmp_path / f"{name}.tif"), gdal.Open(sample[like].source())
        count, height, width = values.shape
        dataset = gdal.GetDriverByName("GTiff").Create(path, width, height, count, kind)
        dataset.SetProjection(model.GetProjection())
        dataset.SetGeoTransform(model.GetGeoTransform())
        for number, band in enumerate(values, 1):
            dataset.GetRasterBand(number).WriteArray(band)
        if dress is not None:
            dress(dataset)
        dataset = None
        layer = QgsRasterLayer(path, name)
        assert layer.isValid()
        QgsProject.instance().addMapLayer(layer)
        return layer

    return write


@pytest.fixture
def altered(sample, write_layer):
    """Return a function that adds a copy of a raster of the sample scene, its values changed, to the project."""
    import numpy as np
    from osgeo import gdal

    def make(modality, change, name="altered", nodata=None, kind=None):
        source = gdal.Open(sample[modality].source())
        values = change(source.ReadAsArray().astype(np.float32))
        bands = values if values.ndim == 3 else values[None]

        def dress(dataset):
            for number in range(1, len(bands) + 1):
                dataset.GetRasterBand(number).SetDescription(source.GetRasterBand(number).GetDescription())
                if nodata is not None:
                    dataset.GetRasterBand(number).SetNoDataValue(nodata)

        return write_layer(name, bands, modality, kind or gdal.GDT_Float32, dress)

    return make


@pytest.fixture
def open_page(qgis_canvas, qtbot):
    """Return a function that shows a page of the dock, in `size` and with a checkpoint if one is given."""
    pages = []

    def show(kind, checkpoint=None, size=(460, 1600)):
        pages.append(kind(qgis_canvas))
        qtbot.addWidget(pages[-1])
        pages[-1].resize(*size)
        pages[-1].show()
        if checkpoint is not None:
            pages[-1].set_checkpoint(checkpoint)
            pages[-1].refresh()
        return pages[-1]

    yield show
    for page in pages:
        page.shut()


@pytest.fixture(params=["segment", "finetune", "evaluate"])
def every_page(request, open_page, sample, engine_python, checkpoint):
    """Return one page after another, with the bundled checkpoint and the sample scene."""
    module = importlib.import_module(f"lacuna.ui.{request.param}_page")
    return open_page(getattr(module, f"{request.param.title()}Page"), checkpoint)


@pytest.fixture
def canvas(qgis_canvas, sample):
    """Return the map, seen by the analyst, with the sample scene in it."""
    window = qgis_canvas.window()
    window.show()
    qgis_canvas.show()
    qgis_canvas.resize(900, 900)
    qgis_canvas.setDestinationCrs(sample["optical"].crs())
    qgis_canvas.setExtent(sample["optical"].extent())
    yield qgis_canvas
    window.hide()


@pytest.fixture
def processing(qgis_processing, engine_python, sample):
    """Return the module `processing` with Lacuna's provider."""
    import lacuna
    import processing

    plugin = lacuna.classFactory(None)
    plugin.initProcessing()
    yield processing
    plugin.unload()


@pytest.fixture
def refusal(processing):
    """Return a function that says why an algorithm refuses a request before it starts, and fails if it does not."""
    from qgis.core import QgsApplication, QgsProcessingContext, QgsProject

    def ask(algorithm, request):
        context = QgsProcessingContext()
        context.setProject(QgsProject.instance())
        made = QgsApplication.processingRegistry().createAlgorithmById(algorithm)
        passed, why = made.checkParameterValues(request, context)
        assert not passed
        return why

    return ask


@pytest.fixture
def listener(qgis_app):
    """Return a feedback that keeps what an algorithm says: `warnings`, `infos`, `texts`, `progressed`."""
    from qgis.core import QgsProcessingFeedback

    class Listener(QgsProcessingFeedback):
        def __init__(self):
            super().__init__()
            self.warnings, self.infos, self.texts, self.progressed = [], [], [], []
            self.progressChanged.connect(self.progressed.append)

        def pushWarning(self, warning):
            self.warnings.append(warning)

        def pushInfo(self, info):
            self.infos.append(info)

        def setProgressText(self, text):
            self.texts.append(text)

    return Listener()


@pytest.fixture(scope="session")
def run_qgis_process(plugins_folder, tmp_path_factory):
    """Return a function that runs `qgis_process` with a profile of its own in which Lacuna is enabled."""
    # Debian's /usr/bin/qgis_process is a shell script that fails without a shell's login; the program lies beside it.
    program = shutil.which("qgis_process.bin") or shutil.which("qgis_process")
    folder = tmp_path_factory.mktemp("qgis_process")
    own = {
        "QT_QPA_PLATFORM": "offscreen",
        "QGIS_PLUGINPATH": str(plugins_folder),
        "QGIS_CUSTOM_CONFIG_PATH": str(folder / "profile"),
        "XDG_RUNTIME_DIR": str(folder),
    }

    def run(*arguments):
        return subprocess.run(
            [program, *arguments], env={**os.environ, **own}, capture_output=True, text=True, timeout=300
        )

    enabled = run("plugins", "enable", "lacuna")
    assert enabled.returncode == 0, enabled.stdout + enabled.stderr
    return run


@pytest.fixture
def qgis_process(run_qgis_process, engine_python):
    """Return a function that runs `qgis_process` with Lacuna and the engine's own environment."""
    return run_qgis_process


@pytest.fixture(scope="session")
def sample_labels() -> str:
    """Return the path of the reference labels of the sample scene."""
    return str(SAMPLE / "labels.tif")


@pytest.fixture
def polygons(sample):
    """Return a function that makes a memory layer of rectangles on the sample scene, their classes in the field `kind`.

    Each is columns, rows, width and height in pixels of the optical raster, from its lower left corner.
    """
    from qgis.core import QgsFeature, QgsGeometry, QgsProject, QgsRectangle, QgsVectorLayer

    corner, pixel = sample["optical"].extent(), sample["optical"].rasterUnitsPerPixelX()

    def make(name, boxes):
        crs = sample["optical"].crs().authid()
        layer = QgsVectorLayer(f"Polygon?crs={crs}&field=kind:string&field=number:integer", name, "memory")
        features = []
        for number, (kind, (column, row, width, height)) in enumerate(boxes.items()):
            x, y = corner.xMinimum() + column * pixel, corner.yMinimum() + row * pixel
            feature = QgsFeature(layer.fields())
            feature.setAttributes([kind, number])
            feature.setGeometry(QgsGeometry.fromRect(QgsRectangle(x, y, x + width * pixel, y + height * pixel)))
            features.append(feature)
        layer.dataProvider().addFeatures(features)
        QgsProject.instance().addMapLayer(layer)
        return layer

    return make
