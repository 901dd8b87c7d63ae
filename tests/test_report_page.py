"""The page of a report in a real browser: on a telephone and on a screen."""

from __future__ import annotations

import re

import pytest
from browser import laid_out, needs_browser
from test_report import write_evaluation, write_run

from hpcsamp.metrics.definitions import DESCRIPTIONS
from hpcsamp.report import build

NAMES = ("one", "a-run-whose-name-is-as-long-as-they-become-in-campaigns", "three", "four")


@pytest.fixture(scope="module", params=[1, 4], ids=["one run", "four runs"])
def report(request, tmp_path_factory):
    """Folder of a report of one or of four runs."""
    folder = tmp_path_factory.mktemp("page")
    runs = [write_run(folder / name, temperature=0.1) for name in NAMES[: request.param]]
    for run in runs:
        write_evaluation(run)
    return build(runs, folder / "report").page.parent


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_fits_its_window(report, width):
    found = laid_out(report / "index.html", width)
    assert found["window"] == width
    assert found["page"] <= width
    assert found["outside"] == []
    assert found["cut"] == []
    sizes = {picture["natural"] for picture in found["pictures"]}
    assert len(sizes) == 1  # so that text is equally large in all figures
    shown = {round(picture["width"]) for picture in found["pictures"]}
    assert len(shown) == 1
    assert all(picture["loaded"] for picture in found["pictures"])
    if width == 390:
        assert shown.pop() > 340


@needs_browser
def test_the_measurement_finds_what_does_not_fit(report, tmp_path):
    """A page with a wide element and a picture that is not there."""
    page = tmp_path / "index.html"
    page.write_text(
        (report / "index.html").read_text().replace("<main", "<p style='width: 900px'>x</p><main")
    )
    found = laid_out(page, 390)
    assert found["page"] > 390
    assert found["outside"] == ["P: x"]
    assert not any(picture["loaded"] for picture in found["pictures"])


def test_contents_headings_and_alternative_texts(report):
    html = (report / "index.html").read_text()
    contents = re.findall(r'<li><a href="#([^"]+)">([^<]+)</a></li>', html)
    sections = re.findall(r'<section id="([^"]+)">\n<h2>([^<]+)</h2>', html)
    assert contents == sections
    assert {"Learning curves", "Reliability"} <= {heading for _, heading in sections}
    texts = re.findall(r'<img src="[^"]+" alt="([^"]+)">', html)
    assert len(texts) == len(re.findall("<img", html))
    assert len(set(texts)) == len(texts)
    curves, *others = texts
    assert re.search(r"Training loss: nats per item over step; .*(loss|one) from [\d.]+ to", curves)
    assert all("temperature 0.1" in text for text in others)
    assert "accuracy 0." in next(text for text in others if "confidence" in text)


def test_one_file_contains_its_figures(report):
    runs = [path for path in report.parent.iterdir() if (path / "config.toml").exists()]
    apart = build(runs, report)
    assert apart.pictures
    one = build(runs, report, single_file=True)
    assert one.pictures == []
    assert not list(report.glob("*.png"))  # those of the page before
    html = one.page.read_text()
    assert len(re.findall(r'<img src="data:image/png;base64,', html)) == len(apart.pictures)
    assert "<script" not in html
    assert not re.search(r'(src|href)="(?!data:|#)', html)


def test_figures_of_a_section_have_the_same_scales():
    from hpcsamp.report import style

    figures = []
    for values in ([0, 1], [-1, 3]):
        figure = style.figure(style.WIDTH, style.HEIGHT)
        figure.subplots().plot([0, values[1]], values)
        figures.append(figure)
    style.same_scales(figures)
    first, second = (figure.axes[0] for figure in figures)
    assert first.get_ylim() == second.get_ylim()
    assert first.get_xlim() == second.get_xlim()
    assert first.get_ylim()[0] < -1
    assert first.get_ylim()[1] > 3


def test_each_metric_is_explained_below_its_name(report):
    html = (report / "index.html").read_text()
    assert f"accuracy<small>{DESCRIPTIONS['accuracy']}</small>" in html
