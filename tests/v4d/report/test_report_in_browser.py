"""The report in Chromium: it asks nobody for anything, fits a phone, is accessible, and its controls work."""

import json
import re
from itertools import pairwise

import numpy as np
import pytest

from tests.v4d.report.conftest import random_scores, v4d
from tests.v4d.report.test_report import HOSTILE

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (the extra 'test')").expect
# By default 5 and 30 s, which a busy machine may take.
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture
def open_page(browser):
    """A function: the page of a run in a window; at the end there must have been no error and no request."""
    contexts, said, asked = [], [], []

    def show(run, viewport=WIDE, **options):
        # A page that glides to where the focus is has no fixed place for the pointer to go to.
        context = browser.new_context(viewport=viewport, reduced_motion="reduce", **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: message.type == "error" and said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: asked.append(request.url))
        if not (run / "report.html").exists():
            v4d("report", run, "--gpus", "0")
        page.goto((run / "report.html").absolute().as_uri())
        return page

    yield show
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [
        url for url in asked if url.endswith("/report.html")
    ]
    assert len([url for url in asked if url.endswith("/report.html")]) == len(contexts)


@pytest.fixture
def many(with_scores):
    """A run with 60 classes, one of which no video is of."""
    scores, labels = random_scores(600, 60)
    labels[labels == 59] = 58
    names = [*HOSTILE, *(f"class {i:02}" for i in range(len(HOSTILE), 60))]
    return with_scores(scores, labels, names)


def first_cells(page, table, column):
    return page.locator(f"{table} tbody tr").evaluate_all(
        "(rows, column) => rows.map(row => row.cells[column].dataset.value)", column
    )


def test_the_classes_are_sorted_with_the_keyboard(many, open_page):
    page = open_page(many)
    accuracy = first_cells(page, ".classes", 2)
    assert accuracy[-1] == ""
    assert list(map(float, accuracy[:-1])) == sorted(map(float, accuracy[:-1]))
    head = page.locator(".classes thead th").nth(1)
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    assert page.locator(".classes thead th[aria-sort]").count() == 1
    videos = list(map(int, first_cells(page, ".classes", 1)))
    assert videos == sorted(videos, reverse=True)
    page.keyboard.press("Space")
    expect(head).to_have_attribute("aria-sort", "ascending")
    assert list(map(int, first_cells(page, ".classes", 1))) == videos[::-1] == sorted(videos)
    # The ring around what has the focus is seen.
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert first_cells(page, ".classes", 2) == accuracy
    page.get_by_label("Find a class").fill("CLASS 1")
    expect(page.locator(".classes tbody tr:visible")).to_have_count(10)


def confusion_of(page):
    data = json.loads(page.locator("#data").text_content())["confusions"]["evaluation-1"]
    counts = np.zeros((60, 60), int)
    cells = np.array(data["cells"]).reshape(-1, 3)
    counts[cells[:, 0], cells[:, 1]] = cells[:, 2]
    return data["names"], counts, data["orders"]


def test_the_confusion_in_other_orders(many, open_page):
    page = open_page(many)
    names, counts, orders = confusion_of(page)
    for order in ("confused", "accuracy", "name"):
        button = page.locator(f"button[data-order={order}]")
        button.press("Enter")
        expect(button).to_have_attribute("aria-pressed", "true")
        assert page.locator(".orders button[aria-pressed=true]").count() == 1
        shown = page.locator(".confusion tbody tr").evaluate_all(
            "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
        )
        first = orders[order][:20]
        assert [row[0].split(" ", 1)[1] for row in shown] == [names[i] for i in first]
        figures = [[0 if cell == "·" else int(cell) for cell in row[1:]] for row in shown]
        np.testing.assert_array_equal(figures, counts[np.ix_(first, first)])
        pixels = page.locator("canvas").evaluate(
            "canvas => [...canvas.getContext('2d').getImageData(0, 0, 60, 60).data]"
        )
        opacity = np.array(pixels).reshape(60, 60, 4)[..., 3]
        np.testing.assert_array_equal(opacity > 0, counts[np.ix_(orders[order], orders[order])] > 0)
    assert orders["name"] != orders["accuracy"]


def test_a_cell_of_the_picture_is_read_with_keyboard_and_pointer(many, open_page):
    page = open_page(many)
    names, counts, orders = confusion_of(page)
    picture, said = page.locator("canvas"), page.locator("[data-readout]")
    picture.press("ArrowRight")
    i, j = orders["confused"][:2]
    expect(said).to_contain_text(f"“{names[i]}”: {counts[i, j]} of {counts[i].sum()} videos")
    expect(said).to_contain_text(f"are taken for “{names[j]}”")
    expect(page.get_by_role("status")).to_have_text(said.text_content())
    picture.press("ArrowDown")
    expect(said).to_contain_text(f"“{names[j]}”: {counts[j, j]} of")
    picture.scroll_into_view_if_needed()
    box = picture.bounding_box()
    page.mouse.move(box["x"] + 1 + 0.5 / 60 * box["width"], box["y"] + 1 + 0.5 / 60 * box["height"])
    expect(said).to_contain_text(f"“{names[i]}”: {counts[i, i]} of")
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_be_hidden()


def test_a_chart_is_read_with_keyboard_and_pointer(evaluated, open_page):
    page = open_page(evaluated)
    log = [json.loads(line) for line in (evaluated / "log.jsonl").open()]
    losses = [record["loss"] for record in log if "loss" in record]
    chart = page.locator("#chart-loss svg")
    chart.press("End")
    tip = page.get_by_role("status")
    expect(tip).to_have_text(f"step 11\n{losses[-1]:.3g}")
    chart.press("ArrowLeft")
    expect(tip).to_have_text(f"step 10\n{losses[-2]:.3g}")
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 55 / 360 * box["width"], box["y"] + box["height"] / 2)
    expect(tip).to_have_text(f"step 0\n{losses[0]:.3g}")
    expect(tip).to_be_visible()
    page.locator("#chart-top1 svg").press("End")
    expect(tip).to_have_text(re.compile(r"^step 11\nTraining [\d.]+%\nValidation [\d.]+%$"))


def test_what_a_chart_says_stays_beside_it_when_the_page_scrolls(evaluated, open_page):
    page = open_page(evaluated, {"width": 1280, "height": 300})
    chart, tip = page.locator("#chart-loss svg"), page.get_by_role("status")
    chart.press("End")
    expect(tip).to_be_visible()
    apart = [place.bounding_box()["y"] for place in (chart, tip)]
    page.evaluate("scrollBy(0, 70)")
    moved = [place.bounding_box()["y"] for place in (chart, tip)]
    assert moved[0] == pytest.approx(apart[0] - 70)
    assert moved[1] == pytest.approx(apart[1] - 70)


@pytest.mark.parametrize("which", ["many", "evaluated"])
def test_a_phone_needs_no_scrolling_to_the_side(which, request, open_page):
    page = open_page(request.getfixturevalue(which), PHONE)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    # What is wider has a box of its own to scroll in, which the keyboard reaches.
    boxes = page.locator(".scroll").evaluate_all(
        "boxes => boxes.filter(box => box.scrollWidth > box.clientWidth).map(box => box.tabIndex)"
    )
    assert boxes
    assert set(boxes) == {0}


@pytest.mark.parametrize(("which", "scheme"), [("many", "light"), ("evaluated", "light"), ("evaluated", "dark")])
def test_axe_finds_nothing(which, scheme, request, open_page):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra 'test' has axe")
    # The page's own policy would keep axe out.
    page = open_page(request.getfixturevalue(which), color_scheme=scheme, bypass_csp=True)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    results = axe.Axe().run(page).response
    faults = [(fault["id"], fault["nodes"][0]["html"]) for fault in results["violations"]]
    assert faults == []
    assert "color-contrast" in [rule["id"] for rule in results["passes"]]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") == (scheme == "light")


def contrast(one, other):
    def luminance(colour):
        shares = np.array(colour) / 255
        return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_figures_stand_out_from_every_colour_of_the_confusion(scheme, many, open_page):
    """Axe does not see through color-mix."""
    page = open_page(many, color_scheme=scheme)
    found = page.locator(".confusion td").first.evaluate("""cell => {
        const paint = document.createElement("canvas").getContext("2d");
        const bytes = colour => {
            paint.fillStyle = colour;
            paint.fillRect(0, 0, 1, 1);
            return [...paint.getImageData(0, 0, 1, 1).data].slice(0, 3);
        };
        return ["hit", "miss"].flatMap(kind => [...Array(10).keys()].map(level => {
            cell.className = `${kind} l${level + 1}`;
            const style = getComputedStyle(cell);
            return [bytes(style.color), bytes(style.backgroundColor)];
        }));
    }""")
    assert len({tuple(background) for _, background in found}) == 20
    assert min(contrast(*pair) for pair in found) >= 4.5


def test_without_scripts_all_is_there_to_read(many, open_page):
    page = open_page(many, java_script_enabled=False)
    assert page.locator(".classes tbody tr").count() == 60
    assert page.locator(".confusion tbody tr").count() == 20
    picture = page.locator("img[data-picture]")
    assert picture.is_visible()
    assert page.locator("#chart-loss svg path.line").is_visible()
    # Nothing promises what only a script does.
    assert page.get_by_role("button").count() == 0
    assert not page.get_by_text("arrow keys").is_visible()
    assert page.locator("meta[http-equiv]").count() == 1


def test_on_paper_nothing_is_cut_off(many, open_page):
    page = open_page(many)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator(".tall").evaluate_all("boxes => boxes.every(box => box.scrollHeight <= box.clientHeight)")
    assert not page.locator("nav").is_visible()


def test_headings_are_in_order(evaluated, open_page):
    page = open_page(evaluated)
    page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    levels = [
        int(name[1]) for name in page.locator("h1,h2,h3,h4,h5").evaluate_all("all => all.map(one => one.tagName)")
    ]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    targets = page.locator("nav a").evaluate_all("all => all.map(one => one.hash)")
    assert all(page.locator(target).count() == 1 for target in targets)
    ids = page.locator("[id]").evaluate_all("all => all.map(one => one.id)")
    assert len(ids) == len(set(ids))
