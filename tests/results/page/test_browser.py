"""The report in a real browser: Debian's Chromium, driven by Playwright."""

import csv
import runpy
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from optuna.trial import TrialState

from sharetune import results
from sharetune.results.page.comparison import write_comparison
from sharetune.results.page.report import render, write_page
from sharetune.results.page.serving import serving
from sharetune.results.reading.study import read_study, study_record
from sharetune.spaces import Candidate, Recipe, SharingPlan
from tests.checkpoint import write_checkpoint, write_rows
from tests.paths import ROOT
from tests.results.conftest import complete, ended, write_run

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright: pip install 'sharetune[browser]'"
)
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("ray"),  # a browser waits so long only: not while clusters run
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]

EVIL = "<img src=x onerror=\"document.title='owned'\">"


def shared(first: int, last: int, ratio: float) -> SharingPlan:
    plan = SharingPlan.range(first, last, ratio)
    return SharingPlan.model_validate(
        {"groups": [{**group, "stack": "layers"} for group in plan.written()["groups"]]}
    )


def scored(support: int = 500) -> dict:
    rows = {label: {"precision": 0.9, "recall": 0.8, "f1": 0.85} for label in ("no", "yes")}
    return {
        "per_class": {label: {**row, "support": support} for label, row in rows.items()},
        "confusion": [[450, 50], [60, 440]],
        "curve": [[step, 2 / (1 + step / 9)] for step in range(1, 25)],
        "circumstances": {"device": "x86_64", "threads": 1, "seed": 0},
    }


def latency(median: float) -> dict:
    ends = {"low_ms": median - 0.1, "high_ms": median + 0.1}
    ratio = {
        "ratio": median / 10,
        "ratio_low": median / 10 - 0.01,
        "ratio_high": median / 10 + 0.01,
    }
    return {"forms": {"stored": {"median_ms": median, **ends, **ratio}}, "unshared_ms": 10.0}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """Seven trials a reviewer could ask about; the weights of trial 3 were kept."""
    failed = {"kind": EVIL, "message": EVIL, "traceback": EVIL}
    seed_1 = Candidate(plan=shared(1, 4, 0.5), recipe=Recipe(seed=1)).written()
    folder = write_run(
        tmp_path_factory.mktemp("browser") / "run",
        complete(0.900, 200.0, anchor="unshared", **scored()),
        complete(0.700, 60.0, shared(0, 5, 1.0), anchor="tied", **scored()),
        complete(0.850, 110.0, SharingPlan.drop([4], "layers"), anchor="drop-1", **scored()),
        complete(0.894, 120.0, shared(1, 4, 0.5), **scored()),
        complete(0.880, 150.0, shared(0, 2, 0.3), **scored()),
        complete(0.890, 120.0, **scored()) | {"candidate": seed_1},
        ended(TrialState.PRUNED, reason=EVIL, facts={"parameters": 90.0}),
        ended(TrialState.FAIL, error=failed, facts={"parameters": 95.0}),
        latency={0: latency(10.0), 2: latency(8.0), 3: latency(10.1)},
        name=f"reviewed {EVIL}",
    )
    (folder / "trials" / "3" / "model").mkdir(parents=True)
    results.write_report(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


class Visit:
    """A page that remembers what went wrong on it and what it asked of the network."""

    def __init__(self, browser, **context) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.errors, self.requests = [], []
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path, fragment: str = "") -> float:
        """Seconds until the first picture and the first candidate are there."""
        start = time.perf_counter()
        self.page.goto(f"{path.as_uri()}{fragment}")
        self.page.locator("#candidate[data-trial]").wait_for(state="attached")
        self.page.locator(".plot").first.scroll_into_view_if_needed()
        self.page.locator(".plot .main-svg").first.wait_for(state="attached")
        return time.perf_counter() - start

    def candidate(self) -> str:
        return self.page.locator("#candidate").inner_text().replace("\u202f", " ")

    def shown(self) -> list[int]:
        rows = self.page.locator("#all-trials tbody tr:not([hidden]) td:first-child")
        return [int(text) for text in rows.all_text_contents()]

    def opens(self, number: int) -> None:
        self.page.locator(f'#candidate[data-trial="{number}"]').wait_for(state="attached")

    def set(self, slider: str, stop: int) -> None:
        self.page.locator(f'[name="limit-{slider}"]').fill(str(stop))
        self.settle()

    def settle(self) -> None:
        """Waits until what was changed is drawn."""
        self.until("!waiting")

    def until(self, condition: str, seconds: float = 30.0) -> None:
        """Waits for a condition; the page's own policy forbids Playwright's way of asking."""
        end = time.perf_counter() + seconds
        frames = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        while True:
            self.page.evaluate(frames)
            if self.page.evaluate(condition):
                return
            assert time.perf_counter() < end, condition

    def points(self, figure: str) -> list[int]:
        script = """(f) => {
            const plot = document.querySelector(`[data-figure=${f}]`);
            return plot.data.flatMap((trace) => trace.customdata ?? []);
        }"""
        return sorted(self.page.evaluate(script, figure))


@pytest.fixture
def visit(browser):
    visits = []

    def make(**context) -> Visit:
        visits.append(Visit(browser, **context))
        return visits[-1]

    yield make
    for one in visits:
        one.context.close()
        assert one.errors == []


@pytest.fixture
def report(visit, run) -> Visit:
    reviewer = visit(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    reviewer.open(run / "report.html")
    return reviewer


def test_it_opens_alone_and_shows_the_smallest_within_a_point(report, run):
    assert report.requests == [(run / "report.html").as_uri()]
    assert "Trial 3" in report.candidate()
    assert report.page.title() == f"reviewed {EVIL}: ShareTune report"
    assert report.page.locator("main img").count() == 0


def test_a_reviewer_s_questions_are_answered_by_the_page_alone(report):
    text = report.page.locator("main").inner_text().replace("\u202f", " ")
    # which is the smallest within one point of the unshared model?
    assert "The smallest model within 1 point of it is trial 3" in text
    row = report.page.locator("table.choices tr", has_text="2 points").inner_text()
    assert "120" in row and "0.60×" in row
    # how sure? two seeds, and the test split
    assert "86.7–91.7 over 2 seeds, mean 89.2 (95 % interval by Student's t" in report.candidate()
    assert "accuracies closer than about 1.9 points cannot be told apart" in text
    # what is shared?
    drawing = report.page.locator("#candidate svg.layers").get_attribute("aria-label")
    reads = "50% of attention of layers 1..4, 50% of FFN of layers 1..4"
    assert drawing == f"6 layers; bank A read by {reads}"
    # what does it cost and gain?
    assert "−80" in report.candidate() and "0.60×" in report.candidate()
    assert "Latency does not differ" not in text  # one measured sharing plan says nothing yet
    # how to get it?
    assert "sharetune export" in report.candidate()
    assert 'load_shared("reviewed-img-src-x-onerror-document.title-owned-3")' in report.candidate()


def test_the_candidate_has_curve_classes_confusion_and_circumstances(report):
    report.page.locator("#candidate summary", has_text="Per class").click()
    assert "0.85" not in report.candidate() and "85.0" in report.candidate()
    assert report.page.locator("#candidate .confusion td").all_inner_texts()[1:] == [
        "450",
        "50",
        "60",
        "440",
    ]
    label = report.page.locator("#candidate svg.curve").first.get_attribute("aria-label")
    assert label == "training loss: 1.8 at step 1, 0.545 at step 24"
    report.page.locator("#candidate summary", has_text="Circumstances").click()
    assert "x86_64" in report.candidate()


def test_limits_narrow_table_and_pictures_together(report):
    assert report.shown() == [0, 1, 2, 3, 4, 5, 6, 7]
    report.page.locator("[data-figure=front-parameters]").scroll_into_view_if_needed()
    report.set("accuracy", 3)  # 70.0, 85.0, 88.0, 89.0 %: at least the fourth
    assert report.shown() == [0, 3, 5]
    assert report.points("front-parameters") == [0, 3, 5]
    said = report.page.locator("#narrowed").inner_text().replace("\u202f", " ")
    assert "3 of 8 trials shown. 2 lack a limited number" in said
    assert "Best within these limits: trial 0, 90.0 % accuracy" in said
    report.set("parameters", 1)  # from 200 downwards: at most 150
    assert report.shown() == [3, 5]
    report.set("latency_ms", 1)
    assert report.shown() == []
    report.page.get_by_role("button", name="Reset").click()
    report.until("!waiting && Object.keys(state.limits).length === 0")
    assert len(report.shown()) == 8


def test_kinds_are_hidden_and_axes_change(report):
    report.page.locator("[data-figure=front-parameters]").scroll_into_view_if_needed()
    assert {6, 7} <= set(report.points("front-parameters"))
    for kind in ("dominated", "pruned", "failed"):
        report.page.get_by_label(kind, exact=True).uncheck()
    report.settle()
    assert report.points("front-parameters") == [0, 1, 2, 3]
    assert report.shown() == [0, 1, 2, 3]
    report.page.get_by_label("log across").check()
    report.settle()
    kind = "document.querySelector('[data-figure=front-parameters]').layout.xaxis.type"
    assert report.page.evaluate(kind) == "log"


def test_three_dimensions_are_drawn_when_they_are_looked_at(report):
    assert report.page.evaluate("Plotly.Plots && !deep")
    report.page.locator("summary", has_text="in three dimensions").click()
    report.page.locator("[data-figure=front-3d] canvas").first.wait_for()
    assert report.points("front-3d") == [0, 2, 3]
    report.page.get_by_label("log across").check()
    report.settle()
    kind = "document.querySelector('[data-figure=front-parameters]').layout.xaxis.type"
    assert report.page.evaluate(kind) == "log"
    assert len(report.requests) == 1


def point_at(visit: Visit, figure: str, number: int) -> tuple[float, float]:
    """Moves the mouse to a trial's point, and says where that is."""
    visit.page.locator(f"[data-figure={figure}]").scroll_into_view_if_needed()
    visit.page.wait_for_timeout(300)
    across, down = visit.page.evaluate(
        """([figure, number]) => {
          const plot = document.querySelector(`[data-figure=${figure}]`);
          const trace = plot.data.find((t) => t.customdata?.includes(number));
          const i = trace.customdata.indexOf(number), { xaxis, yaxis } = plot._fullLayout;
          const box = plot.getBoundingClientRect();
          const across = box.left + xaxis._offset + xaxis.d2p(trace.x[i]);
          return [across, box.top + yaxis._offset + yaxis.d2p(trace.y[i])];
        }""",
        [figure, number],
    )
    visit.page.mouse.move(across, down)
    visit.page.wait_for_timeout(200)
    return across, down


def test_names_in_a_picture_cover_no_other_name_and_no_named_point(visit, run):
    for width in (390, 1280):
        reviewer = visit(viewport={"width": width, "height": 900})
        reviewer.open(run / "report.html")
        names, marks = reviewer.page.evaluate(
            """() => {
              const plot = document.querySelector("[data-figure=front-parameters]");
              const boxes = (selector) => [...plot.querySelectorAll(selector)]
                .filter((part) => part.style.visibility !== "hidden")
                .map((part) => part.getBoundingClientRect())
                .map(({ left, top, right, bottom }) => [left, top, right, bottom]);
              return [boxes(".textpoint text"), boxes(".trace:has(text) .points path")];
            }"""
        )
        assert len(marks) == 3 and len(names) >= 2
        for i, name in enumerate(names):
            assert not any(overlap(name, other) for other in [*names[:i], *marks])


def overlap(one: list[float], other: list[float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def test_a_row_and_a_card_open_their_trial(report):
    report.page.locator("#row-4 td").nth(3).click()
    report.opens(4)
    report.page.locator("#front-2").click()
    report.opens(2)
    report.page.locator("table.choices tbody tr", has_text="2 points").click()
    report.opens(3)


def test_a_click_on_a_point_opens_its_trial(report):
    report.page.mouse.click(*point_at(report, "front-parameters", 4))
    report.opens(4)
    assert "0..2 bank 0.3" in report.candidate()
    assert "Its weights were not kept" in report.candidate()


def test_the_keyboard_walks_along_the_front(report):
    report.page.locator("#walk").focus()
    for key, number in (("Home", 1), ("ArrowRight", 2), ("ArrowRight", 3), ("End", 0)):
        report.page.keyboard.press(key)
        report.opens(number)
    report.page.keyboard.press("ArrowRight")
    report.page.keyboard.press("Enter")
    assert report.page.evaluate("document.activeElement.id") == "candidate"
    assert report.page.url.endswith("#trial-0")
    report.page.get_by_role("button", name="smaller").click()
    report.opens(3)


def test_a_link_to_a_trial_opens_it(visit, run):
    reviewer = visit()
    reviewer.open(run / "report.html", "#trial-7")
    assert "failed" in reviewer.candidate() and EVIL in reviewer.candidate()
    reviewer.page.locator("#row-6 a").click()
    reviewer.opens(6)
    assert reviewer.page.locator("main img").count() == 0
    assert "owned" not in reviewer.page.title().replace(EVIL, "")


def test_html_in_any_text_of_a_study_is_text(visit, tmp_path):
    plan = SharingPlan.model_validate({"groups": [{"layers": "1..4", "stack": EVIL}]})
    drop = SharingPlan.drop([2], EVIL)
    scores = {EVIL: {"precision": 0.9, "recall": 0.8, "f1": 0.85, "support": 50}}
    own = {"per_class": scores, "confusion": [[50]], "circumstances": {EVIL: EVIL}}
    run = write_run(
        tmp_path / "run",
        complete(0.9, 200.0, anchor="unshared", **own),
        complete(0.89, 120.0, plan, anchor=EVIL, **own),
        complete(0.8, 90.0, drop, **own),
        ended(TrialState.PRUNED, reason=EVIL, facts={"parameters": 95.0}),
        ended(TrialState.FAIL, error=dict.fromkeys(("kind", "message", "traceback"), EVIL)),
        latency={1: latency(10.0) | {"use": EVIL}},
        name=EVIL,
        model={"name": EVIL, "stacks": {EVIL: 6}, "labels": [EVIL]},
        circumstances={EVIL: EVIL, "versions": {EVIL: EVIL}},
        config={"name": EVIL, "task": {"train": f"{EVIL}.csv"}},
    )
    (run / "trials" / "1" / "model").mkdir(parents=True)
    results.write_report(run)
    reviewer = visit(viewport={"width": 1280, "height": 900})
    reviewer.open(run / "report.html")
    for number in range(5):
        reviewer.page.locator(f"#row-{number} a").click()
        reviewer.opens(number)
        reviewer.page.evaluate("document.querySelectorAll('details').forEach((d) => d.open = true)")
        assert number == 0 or EVIL in reviewer.candidate()
    point_at(reviewer, "front-parameters", 1)
    said = reviewer.page.locator("[data-figure=front-parameters] .hoverlayer")
    assert EVIL in said.text_content()
    assert reviewer.page.locator("main img").count() == 0
    assert reviewer.page.title() == f"{EVIL}: ShareTune report"


def test_commands_are_copied(visit, run):
    reviewer = visit(permissions=["clipboard-read", "clipboard-write"])
    reviewer.open(run / "report.html")
    reviewer.page.locator("#candidate .copy").first.click()
    reviewer.page.get_by_text("Copied").wait_for()
    copied = reviewer.page.evaluate("navigator.clipboard.readText()")
    assert copied.startswith(f"sharetune export {run.name} 3 reviewed-")


def test_the_csv_holds_what_is_shown(report, tmp_path):
    report.set("accuracy", 3)
    with report.page.expect_download() as download:
        report.page.locator("#csv").click()
    download.value.save_as(tmp_path / "shown.csv")
    rows = list(csv.DictReader((tmp_path / "shown.csv").open()))
    assert [row["trial"] for row in rows] == ["0", "3", "5"]
    assert [row["accuracy"] for row in rows] == ["0.9", "0.894", "0.89"]
    assert rows[1]["plan"] == "layers 1..4 bank 0.5 attention+ffn from mean"


FORMULAS = ("=1+1", "+cmd", "-2+3", "@SUM(A1)", '=HYPERLINK("x","y"),', "plain")


def test_cells_of_the_csv_are_no_formulas(visit, tmp_path):
    named = [complete(0.9, 100.0 + i, anchor=text) for i, text in enumerate(FORMULAS)]
    run = write_run(tmp_path / "run", *named, latency={})
    results.write_report(run)
    reviewer = visit()
    reviewer.open(run / "report.html")
    with reviewer.page.expect_download() as download:
        reviewer.page.locator("#csv").click()
    download.value.save_as(tmp_path / "shown.csv")
    cells = {cell for row in csv.reader((tmp_path / "shown.csv").open()) for cell in row}
    begin = tuple("=+-@\t\r")
    assert [cell for cell in cells if cell.startswith(begin) and not is_number(cell)] == []
    for text in FORMULAS:
        wanted = text if text == "plain" else f"'{text}"
        assert any(cell.startswith(wanted) for cell in cells), text


def is_number(text):
    try:
        return float(text) is not None
    except ValueError:
        return False


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_has_no_sideways_scroll(visit, run, scheme):
    phone = visit(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    phone.open(run / "report.html")
    assert phone.page.evaluate("document.documentElement.scrollWidth") == 390


def test_two_thousand_trials_open_quickly(visit, browser, tmp_path, capsys):
    benchmark = runpy.run_path(str(ROOT / "benchmarks" / "report.py"))
    study = study_record(tmp_path, benchmark["made_up_study"](2000))
    path = write_page(tmp_path / "report.html", render(study))
    seconds = benchmark["timed"](browser, path, 2000)
    with capsys.disabled():
        print(
            "\n2,000 trials:", ", ".join(f"{key} {value:.2f} s" for key, value in seconds.items())
        )
    assert seconds["thread"] < 2.0  # the clock on the wall depends on what else the machine does
    reviewer = visit(viewport={"width": 1280, "height": 900})
    reviewer.open(path)
    reviewer.set("parameters", 100)
    assert 0 < len(reviewer.shown()) < 1200
    assert reviewer.requests == [path.as_uri()]
    assert "Moved most: accuracy by" in reviewer.page.locator("main").inner_text()


REAL = [*ROOT.glob("runs/*/study.db"), *ROOT.glob("runs/examples/*/study.db")]


@pytest.mark.skipif(not REAL, reason="needs a run: make demo, or make examples as CI does")
def test_the_reports_of_real_studies_open_alone(visit, tmp_path):
    for storage in REAL:
        path = write_page(tmp_path / "report.html", render(read_study(storage.parent)))
        reviewer = visit(viewport={"width": 1280, "height": 900})
        reviewer.open(path)
        for summary in reviewer.page.locator("main details > summary").all():
            summary.click()
        for figure in reviewer.page.locator(".plot").all():
            figure.scroll_into_view_if_needed()
            figure.locator(".main-svg, canvas").first.wait_for(state="attached")
        assert "Trial" in reviewer.candidate()
        assert reviewer.requests == [path.as_uri()]


def test_a_comparison_opens_alone(visit, run, tmp_path):
    other = write_run(tmp_path / "other", complete(0.91, 200.0, anchor="unshared"), name=EVIL)
    path = write_comparison([run, other])
    reviewer = visit()
    reviewer.page.goto(path.as_uri())
    reviewer.page.locator(".plot .main-svg").first.wait_for(state="attached")
    assert reviewer.requests == [path.as_uri()]
    text = reviewer.page.locator("main").inner_text().replace("\u202f", " ")
    assert EVIL in text and "+1.0 points" in text
    assert reviewer.page.locator("main img").count() == 0


STUDY = {
    "name": "live",
    "model": "model",
    "task": {"name": "text-classification", "train": "train.csv", "test": "test.csv"},
    "executor": "local",
    "latency": {"rounds": 0},
    "budget": {"trials": 12},
    "space": {
        "plan": [{"layers": {"within": "0..-1", "min": 2}}],
        "recipe": {"steps": 60, "max_length": 8, "learning_rate": 0.003},
    },
}


def between_reloads(look):
    """What `look` finds, looking again where the page has just reloaded."""
    for _ in range(4):
        try:
            return look()
        except playwright.Error:
            time.sleep(0.5)
    return look()


def test_the_page_follows_a_running_search(visit, tmp_path):
    write_checkpoint(tmp_path / "model")
    write_rows(tmp_path / "train.csv", 60)
    write_rows(tmp_path / "test.csv", 30, seed=1)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY))
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "sharetune.search.commands.cli",
        "search",
        tmp_path / "study.yaml",
        "--out",
        run,
    ]
    search = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not list(run.glob("trials/*/model/*.safetensors")):
            assert search.poll() is None, "the search ended before its first trial"
            time.sleep(0.1)
        with serving(run, 0) as address:
            reviewer = visit()
            reviewer.page.goto(address)
            reviewer.page.locator("#all-trials tr").first.wait_for()
            before = between_reloads(lambda: len(reviewer.shown()))
            between_reloads(reviewer.page.get_by_label("log across").check)
            rows = reviewer.page.locator("#all-trials tbody tr")
            rows.nth(before).wait_for(timeout=60_000)
            assert between_reloads(reviewer.page.get_by_label("log across").is_checked)
            assert all(url.startswith(address) for url in reviewer.requests)
            reviewer.page.goto("about:blank")
    finally:
        search.terminate()
        search.wait()
