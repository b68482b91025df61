# SPDX-License-Identifier: GPL-2.0-or-later
"""A source: its bands, its validity by every mechanism there is, and each way in which a raster can be wrong."""

import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.enums import ColorInterp

from lacuna.engine.errors import LacunaError, UsageError
from lacuna.engine.jobs import SourceSpec
from lacuna.engine.raster.source import Source

VALUES = np.arange(1, 13, dtype=np.float32).reshape(1, 3, 4)
THREE = np.stack([np.full((3, 4), value, np.uint8) for value in (10, 20, 30)])


def read(path, modality, **spec):
    source = Source(modality, SourceSpec(path, **spec))
    try:
        return source.read(0, 0, source.height, source.width)
    finally:
        source.close()


def invalid(path, modality, **spec):
    """The values of VALUES that are invalid."""
    values, valid = read(path, modality, **spec)
    np.testing.assert_array_equal(values[:, valid], VALUES[:, valid])
    assert not values[:, ~valid].any()
    return sorted(VALUES[0][~valid].tolist())


def test_all_is_valid_where_nothing_says_otherwise(write_raster, modality):
    assert invalid(write_raster("a.tif", VALUES), modality()) == []


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_nodata_of_the_file_of_the_job_and_of_the_card(write_raster, modality, dtype):
    bare = write_raster("bare.tif", VALUES.astype(dtype))
    own = write_raster("own.tif", VALUES.astype(dtype), nodata=3)
    assert invalid(own, modality()) == [3]
    assert invalid(own, modality(nodata=5)) == [3]
    assert invalid(own, modality(nodata=5), nodata=7) == [7]
    assert invalid(bare, modality(nodata=5)) == [5]
    assert invalid(bare, modality(nodata=5), nodata=7) == [7]


def test_nan_and_infinity_are_invalid_whatever_nodata_is(write_raster, modality):
    values = VALUES.copy()
    values[0, 0, 0], values[0, 1, 1], values[0, 2, 2] = np.nan, np.inf, -np.inf
    for nodata in (None, np.nan, 12):
        path = write_raster(f"{nodata}.tif", values, nodata=nodata)
        assert invalid(path, modality()) == [1, 6, 11] + [12] * (nodata == 12)


def test_values_beyond_float32_are_invalid(write_raster, modality):
    values = VALUES.astype(np.float64)
    values[0, 0, 1] = 1e300
    assert invalid(write_raster("a.tif", values), modality()) == [2]


def test_nodata_written_with_too_few_digits_is_still_found(write_raster, modality):
    values = VALUES.copy()
    values[0, 0, 0] = np.float32(-3.4028235e38)
    path = write_raster("a.tif", values)
    assert invalid(path, modality(), nodata=-3.40282306073709653e38) == [1]
    assert invalid(path, modality(), nodata=-3.4028234663852886e38) == [1]
    assert invalid(path, modality(), nodata=-3.4e38) == [1]
    assert invalid(path, modality(), nodata=-1.7976931348623157e308) == [1]
    assert read(path, modality(), nodata=3.4028234663852886e38)[1].all()
    _, valid = read(write_raster("b.tif", VALUES / np.float32(10)), modality(), nodata=0.5)
    assert VALUES[0][~valid].tolist() == [5]


def test_nodata_that_cannot_occur_is_warned_of(write_raster, modality, heard):
    reporter, said = heard
    source = Source(modality(), SourceSpec(write_raster("a.tif", VALUES.astype(np.uint8)), nodata=-9999), reporter)
    assert source.read(0, 0, 3, 4)[1].all()
    assert ("warning", f"{source}: the nodata value -9999 cannot occur among its values (uint8).") in said
    source.close()


def test_a_pixel_is_valid_only_where_all_used_bands_are(write_raster, modality):
    values = np.concatenate([VALUES, VALUES, VALUES])
    values[1, 0, 0], values[2, 0, 1] = -1, -1
    path = write_raster("a.tif", values, nodata=-1)
    _, valid = read(path, modality(bands="abc"))
    assert (~valid).sum() == 2
    _, valid = read(path, modality(bands="ab"), bands=[1, 2])
    assert (~valid).sum() == 1
    assert read(path, modality(), bands=[1])[1].all()


@pytest.mark.parametrize("internal", [True, False])
@pytest.mark.parametrize("nodata", [None, 3])
def test_masks_of_the_dataset_hold_with_and_without_nodata(write_raster, modality, internal, nodata):
    mask = np.full((3, 4), 255, np.uint8)
    mask[0, 0] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_raster("a.tif", VALUES, nodata=nodata, mask=mask)
    assert os.path.exists(path + ".msk") is not internal
    assert invalid(path, modality()) == [1] + [3] * (nodata is not None)


def test_alpha_is_no_band_but_says_what_is_valid(write_raster, modality):
    alpha = np.array([[0, 1, 255, 255]] * 3, np.uint8)
    path = write_raster("a.tif", np.concatenate([THREE, alpha[None]]))
    with rasterio.open(path, "r+") as out:
        out.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    values, valid = read(path, modality(bands=("r", "g", "b")))
    np.testing.assert_array_equal(valid, alpha > 0)
    assert values[:, 1, 2].tolist() == [10, 20, 30]
    values, valid = read(path, modality(bands=("r", "g", "b", "nir")), bands=[1, 2, 3, 4])
    assert valid.all(), "a band that is asked for is data, whatever the file calls it"
    np.testing.assert_array_equal(values[3], alpha)
    with pytest.raises(LacunaError, match="Alpha is not counted") as caught:
        read(path, modality(bands=("r", "g", "b", "nir")))
    assert caught.value.code == "too-few-bands"


def test_a_mask_on_its_own_grid_takes_pixels_out(write_raster, modality):
    path = write_raster("a.tif", VALUES)
    clouds = np.zeros((1, 6, 8), np.uint8)
    clouds[0, :2, :4] = 7  # the first two pixels of the first row, at half the pixel size
    fine = write_raster("fine.tif", clouds, transform=Affine(5, 0, 500000, 0, -5, 5500000))
    assert invalid(path, modality(), mask=fine) == [1, 2]
    nodata = write_raster("nodata.tif", clouds, transform=Affine(5, 0, 500000, 0, -5, 5500000), nodata=7)
    assert invalid(path, modality(), mask=nodata) == []
    part = write_raster("part.tif", np.ones((1, 1, 2), np.uint8), transform=Affine(10, 0, 500020, 0, -10, 5499990))
    assert invalid(path, modality(), mask=part) == [7, 8]
    degrees = Affine(1e-4, 0, 8.999, 0, -1e-4, 49.655)
    lonlat = write_raster("lonlat.tif", np.ones((1, 50, 50), np.uint8), crs="EPSG:4326", transform=degrees)
    assert invalid(path, modality(), mask=lonlat) == list(range(1, 13))


def test_a_mask_elsewhere_is_warned_of(write_raster, modality, heard):
    reporter, said = heard
    path = write_raster("a.tif", VALUES)
    far = write_raster("far.tif", np.ones((1, 3, 4), np.uint8), transform=Affine(10, 0, 900000, 0, -10, 5500000))
    source = Source(modality(), SourceSpec(path, mask=far), reporter)
    assert source.read(0, 0, 3, 4)[1].all()
    assert any(level == "warning" and "it masks nothing" in text and far in text for level, text in said)
    source.close()


def test_a_window_may_stick_out(write_raster, modality):
    source = Source(modality(), SourceSpec(write_raster("a.tif", VALUES)))
    values, valid = source.read(-1, -2, 3, 4)
    np.testing.assert_array_equal(valid, [[0, 0, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]])
    np.testing.assert_array_equal(values[0][valid], [1, 2, 5, 6])
    assert not source.read(10, 10, 2, 2)[1].any()
    source.close()


@pytest.mark.parametrize(
    ("names", "bands", "expected", "how"),
    [
        (("VH", "VV", "x"), ("VV", "VH"), [20, 10], "matched by name"),
        (("b2", "B3", "B04"), ("B02", "B03", "B4"), [10, 20, 30], "matched by name"),
        (("B8A", "B08", "B8"), ("B8A",), [10], "matched by name"),
        (("", "", ""), ("red", "green", "blue"), [10, 20, 30], "matched by order"),
        (("bands", "bands", "bands"), ("VV", "VH", "x"), [10, 20, 30], "matched by order"),
    ],
)
def test_bands_go_by_name_else_by_order_and_it_is_said(write_raster, modality, heard, names, bands, expected, how):
    reporter, said = heard
    source = Source(modality(bands=bands), SourceSpec(write_raster("a.tif", THREE, names=names)), reporter)
    assert source.read(0, 0, 1, 1)[0].ravel().tolist() == expected
    assert [level for level, text in said if how in text] == ["info"]
    source.close()


@pytest.mark.parametrize(
    ("bands", "names", "warned"),
    [
        (("red", "green"), None, True),
        (("red", "green", "blue"), ("B2", "B3", "B4"), True),
        (("red", "green", "blue"), ("band", "band", "band"), False),
        (("red", "green", "blue"), None, False),
    ],
)
def test_bands_too_many_or_of_other_names_are_warned_of(write_raster, modality, heard, bands, names, warned):
    reporter, said = heard
    source = Source(modality(bands=bands), SourceSpec(write_raster("a.tif", THREE, names=names)), reporter)
    assert source.bands == [1, 2, 3][: len(bands)]
    assert [level for level, text in said if "has 3 bands (" in text] == ["warning"] * warned
    source.close()


@pytest.mark.parametrize(
    ("asked", "expected"),
    [([3, 1], [30, 10]), (["c", "A"], [30, 10]), (["red", 2], [10, 20]), ([2, 2], [20, 20])],
)
def test_bands_that_are_asked_for(write_raster, modality, asked, expected):
    path = write_raster("a.tif", THREE, names=("a", "b", "c"), photometric="RGB")
    assert read(path, modality(bands=("x", "y")), bands=asked)[0][:, 0, 0].tolist() == expected


@pytest.mark.parametrize(
    ("names", "bands", "asked", "code", "said"),
    [
        (None, "abcd", None, "too-few-bands", r"has 3 bands .*needs 4 \(a, b, c, d\)"),
        (("a", "b", "c"), "abd", None, "unknown-band", "has no band d; its bands are 1 a, 2 b, 3 c"),
        (("a", "b", "c"), "xy", ["a", "q"], "unknown-band", "has no band q"),
        (None, "xy", [1, 4], "unknown-band", "has no band 4"),
        (None, "xy", [0, 1], "unknown-band", "has no band 0"),
        (None, "xy", [1], "bad-bands", "1 bands were asked of"),
        (("a", "a", "c"), "xy", ["a", "c"], "unknown-band", "has no band a"),
    ],
)
def test_bands_that_are_not_there_are_told(write_raster, modality, names, bands, asked, code, said):
    path = write_raster("a.tif", THREE, names=names)
    with pytest.raises(LacunaError, match=said) as caught:
        Source(modality(bands=tuple(bands)), SourceSpec(path, bands=asked))
    assert caught.value.code == code
    assert path in caught.value.text
    assert caught.value.hint
    assert isinstance(caught.value, UsageError) == (code == "bad-bands")


def error_of(path, modality, **spec):
    with pytest.raises(LacunaError) as caught:
        read(str(path), modality, **spec)
    assert str(path) in caught.value.text
    assert caught.value.hint
    return caught.value


def test_files_that_cannot_be_read_are_told(write_raster, modality, tmp_path):
    assert error_of(tmp_path / "none.tif", modality()).code == "file-missing"
    text = tmp_path / "text.tif"
    text.write_text("this is no raster")
    assert error_of(text, modality()).code == "file-unreadable"
    assert error_of(tmp_path, modality()).code == "file-unreadable"
    good = write_raster("good.tif", np.random.default_rng(0).random((1, 300, 300)).astype(np.float32))
    cut = tmp_path / "cut.tif"
    cut.write_bytes(Path(good).read_bytes()[:100_000])
    problem = error_of(cut, modality())
    assert problem.code == "file-unreadable"
    assert "could not be read" in problem.text


def test_rasters_without_a_place_are_told(write_raster, modality):
    assert error_of(write_raster("a.tif", VALUES, crs=None), modality()).code == "no-crs"
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        path = write_raster("b.tif", VALUES, transform=Affine.identity())
    assert "no position on the ground" in error_of(path, modality()).text
    good = write_raster("good.tif", VALUES)
    problem = error_of(write_raster("mask.tif", VALUES, crs=None), modality(), mask=None)
    assert problem.code == "no-crs"
    with pytest.raises(LacunaError, match="mask of optical") as caught:
        read(good, modality(), mask=write_raster("mask.tif", VALUES, crs=None))
    assert caught.value.code == "no-crs"


def test_complex_and_bandless_rasters_are_told(write_raster, modality):
    assert error_of(write_raster("a.tif", VALUES.astype(np.complex64)), modality()).code == "bad-type"
    for table in ("one", "two"):
        extra = {"raster_table": table, "append_subdataset": "YES", "driver": "GPKG"}
        container = write_raster("container.gpkg", THREE, **extra)
    problem = error_of(container, modality())
    assert problem.code == "empty-raster"
    assert f"GPKG:{container}:two" in problem.hint
    assert read(f"GPKG:{container}:two", modality(bands="rgb"))[0].shape == (3, 3, 4)


def test_bands_of_different_types_are_read_each_in_its_own(write_raster, modality, tmp_path):
    one, two = write_raster("1.tif", VALUES), write_raster("2.tif", VALUES.astype(np.uint8) + 100)
    bands = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><NoDataValue>{nodata}</NoDataValue><SimpleSource>'
        f"<SourceFilename>{path}</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, (kind, path, nodata) in enumerate([("Float32", one, 2), ("Byte", two, 104)], 1)
    )
    vrt = tmp_path / "both.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="4" rasterYSize="3"><SRS>EPSG:32632</SRS>'
        f"<GeoTransform>500000,10,0,5500000,0,-10</GeoTransform>{bands}</VRTDataset>"
    )
    values, valid = read(str(vrt), modality(bands="ab"))
    assert sorted(VALUES[0][~valid].tolist()) == [2, 4]
    np.testing.assert_array_equal(values[1][valid], VALUES[0][valid] + 100)


def test_reading_changes_nothing_in_the_folder_of_the_input(write_raster, modality, tmp_path):
    folder = tmp_path / "input"
    folder.mkdir()
    shutil.move(write_raster("a.tif", VALUES, nodata=3, mask=np.full((3, 4), 255, np.uint8)), folder / "a.tif")
    before = {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)}
    source = Source(modality(), SourceSpec(str(folder / "a.tif")))
    source.sample()
    assert source.has_valid_pixels()
    source.close()
    assert {entry.name: entry.stat().st_mtime_ns for entry in os.scandir(folder)} == before


def test_one_valid_pixel_in_a_large_raster_is_found(write_raster, modality):
    values = np.full((1, 700, 700), -1, np.int16)
    empty = Source(modality(), SourceSpec(write_raster("empty.tif", values, nodata=-1, compress="deflate")))
    assert not empty.has_valid_pixels()
    assert empty.sample().shape == (1, 0)
    values[0, 61, 345] = 5
    one = Source(modality(), SourceSpec(write_raster("one.tif", values, nodata=-1, compress="deflate")))
    assert one.sample().shape == (1, 0)
    assert one.has_valid_pixels()
    empty.close()
    one.close()


def test_every_thread_reads_the_same_and_close_ends_it(write_raster, modality):
    values = np.random.default_rng(0).normal(size=(2, 200, 200)).astype(np.float32)
    path = write_raster("a.tif", values, tiled=True, blockxsize=64, blockysize=64)
    source = Source(modality(bands="ab"), SourceSpec(path))
    found = {}

    def work(number):
        found[number] = [source.read(row, number, 50, 60)[0] for row in range(0, 150, 10)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, parts in found.items():
        for row, part in zip(range(0, 150, 10), parts, strict=True):
            np.testing.assert_array_equal(part, values[:, row : row + 50, number : number + 60])
    source.close()
    with pytest.raises(ValueError, match="is closed"):
        threading_read(source)


def threading_read(source):
    """Read in a thread that has no handle yet, and raise here what it raised."""
    caught = []

    def work():
        try:
            source.read(0, 0, 1, 1)
        except ValueError as problem:
            caught.append(problem)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    raise caught[0]
