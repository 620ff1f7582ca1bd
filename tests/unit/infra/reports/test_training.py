"""The training report: stands alone, and draws what the curve and the histograms hold."""

import dataclasses
import re

import pytest

from infra.reports.data import Example, Histogram, TrainingReportData
from infra.reports.plots import histogram_edges
from infra.reports.training import phase_plots, render_training_report, validation_plots
from liveedit_core.schema import Probe, ProbeKind
from tests.html_page import HtmlPage
from tests.report_examples import HOSTILE
from tests.unit.tiny_inputs import image
from tests.unit.tiny_results import probe_result

RATE = {"learning_rate": 1e-3}


@pytest.fixture
def data() -> TrainingReportData:
    steps: list[dict[str, float | str]] = [
        {"phase": "prompt", "step": step, "absolute": 2.0 / (step + 1), "own_passes": 0.5, **RATE}
        for step in range(3)
    ]
    validation: dict[str, float | str] = {
        "phase": "experts",
        "step": 2,
        "validation.reliability": 0.9,
        "validation.average": 0.8,
        "validation.portability": 0.3,
        "routing.own_kept": 0.7,
        "routing.expert_norm_median": 1.0,
        "routing.expert_norm_max": 4.0,
    }
    return TrainingReportData(
        title=HOSTILE,
        seed=7,
        duration_s=75.0,
        phase_steps={"prompt": 3, "experts": 2},
        curve=[{"phase": "visual_key", "step": 0, "offset": 0.1234}, *steps, validation],
        histograms=[
            Histogram(
                title="Visual margins",
                caption="above 0",
                x_label="margin",
                samples={"own": (0.5, 1.5), "strangers": (-1.0, -0.5, 0.25), "none": ()},
                threshold=0.0,
            ),
            Histogram(title="Empty", caption="", x_label="", samples={"none": ()}),
        ],
        worst_cases=[
            Example(
                result=probe_result(kind=ProbeKind.MODAL_GENERALITY, score=0.0, after="a kettle"),
                probe=Probe(
                    kind=ProbeKind.MODAL_GENERALITY,
                    prompt=HOSTILE,
                    target="a cup",
                    image_bytes=image(1),
                ),
                num_edits=100,
            )
        ],
        warnings=["No expert passes"],
        facts={"git_commit": "abc"},
        recipe_text="[prompt]\nsteps = 3\n",
    )


def test_the_page_stands_alone(data: TrainingReportData) -> None:
    text = render_training_report(data)
    page = HtmlPage(text)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert text.startswith("<!doctype html>")
    assert "script" not in page.tags
    assert all(source.startswith(("data:image/", "#")) for source in sources)
    assert any(source.startswith("data:image/webp") for source in sources)
    assert page.tags.count("svg") == 8


def test_everything_is_shown(data: TrainingReportData) -> None:
    text = render_training_report(data)
    for expected in (
        "90.0 %",  # reliability of the last validation
        "0.1234",  # the visual key's closed form
        "No expert passes",
        "steps = 3",
        "1 min 15 s",
        "strangers (n = 3)",
        "a kettle",
    ):
        assert expected in text
    assert "Empty" not in text


def test_losses_and_shares_have_axes_of_their_own(data: TrainingReportData) -> None:
    titles = [plot.title for plot in phase_plots(data)]
    assert titles == ["prompt: losses", "prompt: accuracies", "learning rate"]
    losses, shares, _ = phase_plots(data)
    assert "absolute" in losses.svg
    assert "own passes" not in losses.svg
    assert "100%" in shares.svg


def test_validation_counts_the_steps_of_all_phases(data: TrainingReportData) -> None:
    plots = {plot.title: plot.svg for plot in validation_plots(data)}
    assert list(plots) == [
        "validation: the five metrics",
        "validation: other metrics",
        "validation: routing",
        "validation: norm of experts",
    ]
    # the only point lies at step 3 + 2, in the middle of the axis
    assert re.search(r">5<|>5\.0", plots["validation: the five metrics"]), "no tick at 5"


def test_a_run_without_validation_has_a_report(data: TrainingReportData) -> None:
    bare = dataclasses.replace(data, curve=[], histograms=[], worst_cases=[], warnings=[])
    text = render_training_report(bare)
    HtmlPage(text)
    assert text.count("There was no validation.") == 2


@pytest.mark.parametrize(
    ("values", "edges"),
    [([0, 2, 1], [-0.5, 0.5, 1.5, 2.5]), ([0.5], [0.0, 1.0]), ([0.0, 0.0], [-0.5, 0.5])],
)
def test_edges(values: list[float], edges: list[float]) -> None:
    assert histogram_edges(values) == edges


def test_edges_hold_all_values() -> None:
    values = [0.1, 0.7, 1.3, -2.9, 100.0]
    edges = histogram_edges(values)
    assert (edges[0], edges[-1]) == (min(values), max(values))
    assert edges == sorted(edges)
