# SPDX-License-Identifier: GPL-2.0-or-later
"""What an evaluation leaves: a page that needs nothing else, the result as JSON, and scores in an untouched file."""

from __future__ import annotations

import json
import re
import struct
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lacuna.engine.checkpoint.card_file import read_card
from lacuna.engine.checkpoint.header import sha256
from lacuna.engine.events import Reporter
from lacuna.engine.jobs import EvaluateJob, SourceSpec
from lacuna.engine.report import charts
from lacuna.engine.report.evaluation import case_name, evaluation_page, main_case
from lacuna.engine.run import run

NASTY = "<script>alert('&\")</script>"
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """Reads a page: its tags, which must be closed in turn, its attributes and its text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def reported(checkpoint, scene, tmp_path, run_evaluate):
    """A function that evaluates with a report and returns the result, the page's text and the page."""

    def evaluate(**options):
        path = tmp_path / "report.html"
        sources = {"a": scene["a"], "b": scene["b"]}
        result, _ = run_evaluate(checkpoint, sources, scene["labels"], report=str(path), overwrite=True, **options)
        text = path.read_text(encoding="utf-8")
        return result, text, Page(text)

    return evaluate


@pytest.mark.parametrize("protocol", ["subsets", "emm", "rmm", "nm"])
def test_the_page_shows_every_case_and_class_and_loads_nothing(reported, protocol):
    result, text, page = reported(protocol=protocol)
    for case in result["cases"]:
        assert case_name(case) in page.text
        assert f"{case['miou']:.3f}" in page.text
        assert f"{case['pixels']:,}" in page.text
    for item in result["classes"]:
        assert item["name"] in page.text
    for section in ("mIoU by case", "IoU by class", "Confusion matrix", "Is the confidence right?", "How it was"):
        assert section in page.text
    assert page.tags.count("svg") >= 3
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name in ("src", "href", "onload", "onclick")]
    assert not re.search(r"@import|url\(", text)
    assert result["checkpoint"]["sha256"] in page.text


def test_areas_are_shown_when_they_were_asked_for(reported):
    result, _, page = reported(area_estimates=True)
    assert "95 % interval" in page.text
    for row in result["areas"]["classes"]:
        assert f"{row['low_m2'] / 1e4:,.2f} to {row['high_m2'] / 1e4:,.2f}" in page.text
    result["classes"][1]["labelled"] = 0
    row = result["areas"]["classes"][1]
    assert f"{row['low_m2'] / 1e4:,.2f} to" not in evaluation_page(result), "without a label nothing is estimated"
    assert "Areas" not in reported()[2].text


def test_the_aggregates_of_emm_are_shown(reported):
    result, _, page = reported(protocol="emm")
    for rate, value in result["aggregates"][0]["expected"].items():
        assert f"E({rate})" in page.text
        assert f"{value:.3f}" in page.text


def test_the_result_lies_beside_the_report(reported, tmp_path):
    result, _, _ = reported()
    stored = json.loads((tmp_path / "report.html.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert not list(tmp_path.glob("*.part"))


def test_names_that_look_like_markup_stay_text(reported):
    result, _, _ = reported(area_estimates=True)
    result["checkpoint"]["name"] = result["measured_on"] = result["device"] = NASTY
    result["warnings"] = [NASTY]
    result["scenes"][0]["name"] = NASTY
    for item in (*result["classes"], *result["areas"]["classes"]):
        item["name"] = NASTY
    for case in result["cases"]:
        case["available"] = [NASTY, *case["available"]]
    text = evaluation_page(result)
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert page.text.count(NASTY) > 10


def test_the_case_in_detail_is_that_with_most_modalities(reported):
    result, _, page = reported()
    assert main_case(result)["available"] == ["a", "b"]
    assert "Confusion matrix: a + b" in page.text
    result, _, _ = reported(protocol="emm")
    assert main_case(result)["damaged"] == []


def test_bars_are_as_long_as_their_values():
    text = charts.bars([("a", 0.25), ("b", 1.0), ("c", 0.0)], "three")
    assert re.findall(r'class="bar" [^>]*width="([\d.]+)"', text) == ["105.0", "420.0", "0.0"]


def test_confusion_matrix_is_shaded_by_row_and_tells_counts():
    text = charts.confusion([[3, 1], [0, 0]], ["wet", "dry"], "two")
    assert "wet classified as dry: 1 of 4" in text
    assert re.findall(r'fill="(#\w+)"', text) == [charts.shade(0.75), charts.shade(0.25), "#ffffff", "#ffffff"]
    assert re.findall(r">(\d+)</text>", text) == ["75", "25"]


def test_a_matrix_of_many_classes_stays_drawable():
    size = 60
    text = charts.confusion([[1] * size] * size, [f"class {i}" for i in range(size)], "many")
    assert text.count("<rect") == size**2
    assert float(re.search(r'width="([\d.]+)"', text).group(1)) < 1200


def tensor_bytes(path):
    data = Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 + length :]


def test_update_card_writes_scores_and_leaves_the_weights_bit_for_bit(checkpoint, scene, run_evaluate):
    before, weights = read_card(checkpoint), tensor_bytes(checkpoint)
    sources = {"a": scene["a"], "b": scene["b"]}
    result, _ = run_evaluate(checkpoint, sources, scene["labels"], update_card=True)
    card = read_card(checkpoint)
    assert tensor_bytes(checkpoint) == weights
    for case in result["cases"]:
        score = card.score(tuple(case["available"]))
        assert {key: score[key] for key in ("miou", "f1", "oa", "kappa", "ece", "iou", "pixels")} == {
            key: case[key] for key in ("miou", "f1", "oa", "kappa", "ece", "iou", "pixels")
        }
        assert not {"confusion", "reliability"} & set(score)
    assert card.scores_on == "4032 labelled pixels of labels.tif, on a.tif, b.tif"
    assert result["checkpoint"]["updated_sha256"] == sha256(checkpoint) != result["checkpoint"]["sha256"]
    card.scores, card.scores_on = before.scores, before.scores_on
    assert card == before
    # What is measured does not change by having been written.
    again, _ = run_evaluate(checkpoint, sources, scene["labels"])
    assert again["cases"] == result["cases"]


def test_scores_of_other_data_do_not_stay_beside_new_ones(make_checkpoint, scene, run_evaluate):
    scores = [{"available": ["a"], "miou": 0.9}, {"available": ["a", "b"], "miou": 0.95}]
    path = make_checkpoint(
        modalities={"a": ["index"], "b": ["index"]}, classes=4, scores=scores, scores_on="another place"
    )
    _, said = run_evaluate(path, {"a": scene["a"]}, scene["labels"], update_card=True)
    card = read_card(path)
    assert [item["available"] for item in card.scores] == [["a"]]
    assert any("a + b were measured on other data" in event.get("text", "") for event in said)


def test_a_checkpoint_behind_a_link_is_updated_where_it_lies(checkpoint, scene, tmp_path, run_evaluate):
    link = tmp_path / "link.safetensors"
    link.symlink_to(checkpoint)
    run_evaluate(str(link), {"a": scene["a"]}, scene["labels"], update_card=True)
    assert link.is_symlink()
    assert read_card(checkpoint).scores


def test_without_update_card_the_checkpoint_stays(checkpoint, scene, run_evaluate):
    before = sha256(checkpoint)
    run_evaluate(checkpoint, {"a": scene["a"]}, scene["labels"])
    assert sha256(checkpoint) == before


def test_a_job_finds_its_way_to_the_evaluation(checkpoint, scene):
    job = EvaluateJob(checkpoint, {"a": SourceSpec(scene["a"])}, scene["labels"], device="cpu")
    result = run(job, Reporter(lambda event: None))
    assert [case["available"] for case in result["cases"]] == [["a"]]
