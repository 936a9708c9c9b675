import base64
import gzip
import hashlib
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from optuna.trial import TrialState
from plotly.offline import get_plotlyjs_version

from sharetune import results
from sharetune.results.judging.summary import Counts, summarise, tiles
from sharetune.results.page.figures import draw_figures
from sharetune.results.page.plotly_bundles import DEEP, FLAT
from sharetune.results.reading.study import read_study
from sharetune.spaces import SharingPlan
from sharetune.spaces.errors import RunError
from tests.results.conftest import complete, ended

EVIL = "<script>alert('x')</script>"
SHARED = SharingPlan.range(1, 4, 0.5)
ANCHORS = (
    complete(
        0.90, 200.0, anchor="unshared", per_class={"no": {"support": 40}, "yes": {"support": 60}}
    ),
    complete(0.80, 60.0, SharingPlan.range(0, 5, 1.0), anchor="tied"),
    complete(0.85, 150.0, SharingPlan.drop([4]), anchor="drop-1"),
    complete(0.75, 40.0, SharingPlan.drop([1, 2, 3, 4]), anchor="drop-4"),
)


class Page(HTMLParser):
    """Collects elements, references that a browser would follow, text, and scripts."""

    def __init__(self, page: Path | str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._script = "", None
        self.scripts: dict[str, str] = {}
        self.feed(page.read_text("utf-8") if isinstance(page, Path) else page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            name = dict(attrs).get("id") or dict(attrs).get("data-of") or f"run {len(self.scripts)}"
            self._script = name
            self.scripts[name] = ""

    def handle_endtag(self, tag):
        self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] += data
        else:
            self.text += data

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)

    def ids(self):
        return {attrs["id"] for _, attrs in self.elements if "id" in attrs}


def packed_pages(page: Page) -> dict[int, Page]:
    """The candidates' pages, as the browser unpacks them."""
    chunks = json.loads(page.scripts["details"])["chunks"].values()
    packed = [json.loads(gzip.decompress(base64.b64decode(chunk))) for chunk in chunks]
    return {int(number): Page(text) for pages in packed for number, text in pages.items()}


def page_of(run: Path) -> Page:
    return Page(results.write_report(run))


def test_the_report_has_figures_cards_table_and_circumstances(make_run):
    run = make_run(*ANCHORS, complete(0.895, 120.0, SHARED))
    (run / "trials" / "4" / "model").mkdir(parents=True)
    path = results.write_report(run)
    page = Page(path)
    assert path == run / "report.html"
    figures = [attrs["data-figure"] for _, attrs in page.elements if "data-figure" in attrs]
    assert figures == [
        *("front-parameters", "hypervolume", "hypervolume-compute"),
        *("effect-form", "effect-range"),
    ]
    assert {f"front-{n}" for n in (0, 1, 3, 4)} <= page.ids()
    assert "front-2" not in page.ids()
    assert {f"row-{n}" for n in range(5)} <= page.ids()
    candidate = packed_pages(page)[4].text
    assert "bank: {ratio: 0.5}" in candidate
    assert f"{run.name}/trials/4/model" in candidate and str(run) not in candidate
    assert f"sharetune export {run.name} 4 demo-4" in candidate
    assert 'model = load_shared("demo-4")' in candidate
    assert "Its weights were not kept. `keep: all`" in packed_pages(page)[2].text
    assert "optuna 5.0.0" in page.text
    assert [p.name for p in run.iterdir() if "report" in p.name] == ["report.html"]


def test_the_summary_is_made_from_the_numbers(make_run):
    run = make_run(
        *ANCHORS,
        complete(0.895, 120.0, SHARED),
        complete(0.895, 120.0, SHARED, same_as=4),
        ended(TrialState.PRUNED, reason="over budget"),
        ended(TrialState.FAIL, error={"kind": "E", "message": "m", "traceback": "t"}),
        ended(TrialState.FAIL, reason="interrupted"),
        ended(TrialState.RUNNING),
    )
    text = " ".join(summarise(read_study(run))).replace("\u202f", " ")
    assert (
        "Of 10 trials: 5 trained, 1 answered from memory, 1 pruned, 1 failed, "
        "1 interrupted and queued again, 1 running. The search was still running."
    ) in text
    assert "The unshared model reaches 90.0 % accuracy with 200 parameters." in text
    assert "On 100 test examples its 95 % interval is 82.6–94.5." in text  # Wilson's
    assert "trial 4 (1..4 bank 0.5 attention+ffn from mean): 89.5 % with 120" in text
    assert "0.60× the unshared model" in text
    assert "beats plain layer drop at 1 of 1 size (drop-1: +4.5 points by trial 4)" in text
    assert "reference point (accuracy 50.0 %, parameters 200)" in text


def test_tiles_name_the_four_large_numbers(make_run):
    study = read_study(make_run(*ANCHORS, complete(0.895, 120.0, SHARED)))
    found = [(tile.label, tile.value.replace("\u202f", " ")) for tile in tiles(study)]
    assert found[:3] == [
        ("unshared accuracy", "90.0 %"),
        ("smallest within 1 point", "120"),
        ("on the front", "4"),
    ]


def test_counts_of_a_study(make_run):
    frame = results.load(make_run(complete(0.9, 1.0), ended(TrialState.WAITING)))
    assert str(Counts.of(frame)) == "1 trained, 1 waiting"


def test_texts_of_the_study_are_shown_as_text(make_run):
    plan = SharingPlan.model_validate({"groups": [{"layers": "1..4", "stack": EVIL}]})
    error = {"kind": EVIL, "message": EVIL, "traceback": EVIL}
    run = make_run(
        complete(0.9, 100.0, plan, anchor=EVIL),
        complete(0.8, 90.0, plan),
        ended(TrialState.FAIL, error=error),
        ended(TrialState.PRUNED, reason=EVIL),
        name=EVIL,
        model={"name": EVIL, "stacks": {EVIL: 6}, "labels": [EVIL]},
        circumstances={EVIL: EVIL, "versions": {EVIL: EVIL}},
        config={"name": EVIL},
    )
    page = page_of(run)
    assert page.text.count(EVIL) > 12
    run_by_the_browser = {name for name in page.scripts if name.startswith("run")}
    assert len(run_by_the_browser) == 2
    assert not any("alert('x')" in page.scripts[name] for name in run_by_the_browser)
    assert not any("<" in page.scripts[name] for name in page.scripts.keys() - run_by_the_browser)
    candidates = packed_pages(page).values()
    assert [candidate.count("script") for candidate in candidates] == [0, 0, 0, 0]
    assert all(candidate.text.count(EVIL) >= 1 for candidate in candidates)
    hover = json.loads(page.scripts["review"])["trials"][0]["hover"]
    assert "<script" not in hover
    assert "&lt;script&gt;alert('x')&lt;/script&gt;" in hover


def test_parts_that_no_plan_changes_are_named_wherever_a_plan_is_drawn(make_run):
    model = {"name": "tiny", "stacks": {"layers": 6}, "lacking": {"layers": ["ffn"]}}
    page = page_of(make_run(*ANCHORS, model=model))
    sentence = "No plan shares or narrows the ffn of stack 'layers', whose matrices are of no"
    assert sentence in page.text
    assert all(sentence in candidate.text for candidate in packed_pages(page).values())


@pytest.mark.slow
def test_the_report_asks_nothing_of_the_network(make_run):
    page = page_of(make_run(*ANCHORS))
    followed = [
        value
        for _, attrs in page.elements
        for key, value in attrs.items()
        if key in ("src", "href", "srcset", "action", "data", "poster")
    ]
    assert followed
    assert all(value.startswith(("#", "data:")) for value in followed)
    policy = [a["content"] for _, a in page.elements if "http-equiv" in a]
    assert policy[0].startswith("default-src 'none'")


def test_the_bundles_are_plotly_s_own_of_the_version_that_draws_the_figures():
    texts = {FLAT: FLAT.read_bytes(), DEEP: gzip.decompress(DEEP.read_bytes())}
    heads = [text[:120].decode() for text in texts.values()]
    assert all(f"v{get_plotlyjs_version()}" in head for head in heads)
    hashes = [hashlib.sha256(text).hexdigest()[:16] for text in texts.values()]
    assert hashes == ["99784e3abfb07b14", "aab04dcd9c103a92"]


@pytest.mark.parametrize(
    "trials",
    [
        (),
        (ended(TrialState.FAIL),),
        (complete(0.9, 100.0),),
        (complete(0.9, 100.0, plan=SHARED),) * 2,
    ],
    ids=["none", "only failed", "one", "two"],
)
@pytest.mark.parametrize(
    "bare",
    [pytest.param(False, id="attributes", marks=pytest.mark.slow), pytest.param(True, id="bare")],
)
def test_small_and_bare_studies_have_a_report(make_run, trials, bare):
    keys = ("objectives", "reference", "model", "circumstances", "config")
    page = page_of(make_run(*trials, **(dict.fromkeys(keys) if bare else {})))
    assert "All trials" in page.text


def test_trials_without_any_attribute_have_a_report(make_run):
    page = page_of(make_run({"values": [0.9, 100.0]}, {"state": TrialState.RUNNING}))
    assert "front-0" in page.ids()


def test_latency_is_drawn_with_its_interval_where_it_is_measured(make_run):
    form = {"ratio": 0.9, "ratio_low": 0.88, "ratio_high": 0.93}
    stored = {"median_ms": 12.0, "low_ms": 11.5, "high_ms": 12.75, **form}
    latency = {0: {"forms": {"stored": stored}, "unshared_ms": 13.0, "batch_size": 1}}
    run = make_run(complete(0.9, 100.0), complete(0.8, 90.0), latency=latency)
    drawings = {drawing.name: drawing for drawing in draw_figures(read_study(run))}
    assert list(drawings) == [
        *("front-parameters", "front-latency_ms", "front-3d"),
        *("hypervolume", "hypervolume-compute"),
    ]
    points = drawings["front-latency_ms"].figure.data[1]
    assert points.x == (12.0,)
    assert points.error_x.array == (0.75,)
    assert points.error_x.arrayminus == (0.5,)
    assert "Measured: batch size 1." in drawings["front-latency_ms"].caption


def test_anchors_have_their_own_symbols_and_labels(make_run):
    drawing = draw_figures(read_study(make_run(*ANCHORS)))[0]
    anchors = next(trace for trace in drawing.figure.data if trace.name == "anchors")
    assert anchors.text == ("unshared", "tied", "drop-1", "drop-4")
    assert anchors.marker.symbol == ("diamond", "square", "triangle-down", "triangle-down")


@pytest.mark.slow
def test_plans_from_the_literature_are_named_and_marked(make_run):
    stack = {"layers": "0..5", "stack": "layers", "form": "tie"}
    ffn = SharingPlan.model_validate({"groups": [{**stack, "parts": ["ffn", "biases"]}]})
    given = (complete(0.86, 120.0, ffn, anchor="plan-0"), complete(0.88, 150.0, SHARED))
    run = make_run(*ANCHORS, *given)
    drawing = draw_figures(read_study(run))[0]
    traces = {trace.name: trace for trace in drawing.figure.data}
    marked = traces["from the literature"]
    assert (marked.customdata, marked.text) == ((4,), ("albert-ffn",))
    assert marked.marker.symbol == ("star",)
    assert traces["anchors"].customdata == (0, 1, 2, 3)
    page = page_of(run)
    assert "trial 4, plan-0, albert-ffn" in page.scripts["review"]
    assert page.text.count("albert-ffn") == 2  # in the front's card, and in the table


def test_the_front_line_is_a_step(make_run):
    run = make_run(complete(0.8, 100.0), complete(0.9, 180.0), complete(0.7, 120.0))
    line = draw_figures(read_study(run))[0].figure.data[0]
    assert (line.x, line.y, line.line.shape) == ((100.0, 180.0), (0.8, 0.9), "hv")


def test_other_objectives_are_drawn_by_their_direction(make_run):
    run = make_run(
        complete(0.8, 100.0, metrics={"accuracy": 0.8, "eval_loss": 0.5}),
        complete(0.9, 180.0, metrics={"accuracy": 0.9, "eval_loss": 0.4}),
        objectives=["eval_loss", "parameters"],
        directions=["minimize", "minimize"],
        reference=None,
    )
    drawings = draw_figures(read_study(run))
    assert [d.title for d in drawings] == ["Evaluation loss against parameters"]
    assert "Lower and further left is better" in drawings[0].caption


def test_failures_are_counted_and_listed_once(make_run):
    error = {"kind": "RayActorError", "message": "worker died", "traceback": "at line 7"}
    page = page_of(make_run(*[ended(TrialState.FAIL, error=error)] * 3))
    assert page.text.count("at line 7") == 2  # in the list, and in the trial that is open
    assert "3 trials: 0, 1, 2" in page.text


def test_a_missing_run_has_no_report(tmp_path):
    with pytest.raises(RunError):
        results.write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_report_needs_neither_torch_nor_ray(make_run):
    script = (
        "import sys, results\n"
        "cheap = {'pandas', 'plotly', 'optuna'} & set(sys.modules)\n"
        f"results.write_report({str(make_run(*ANCHORS))!r})\n"
        "print(sorted(cheap | ({'torch', 'ray', 'transformers'} & set(sys.modules))))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
