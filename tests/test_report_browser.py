"""The report page in a real browser, opened from the disk: what is drawn, clicked, pressed, and at which frame."""

from __future__ import annotations

import io
import shlex
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_reports import FRAMES, HEIGHT, HOSTILE, SEGMENTS, WIDTH, ids_of, make_result

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_result(tmp_path_factory.mktemp("it's a report") / "clip #1")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """Open a page; at the end there must not have been an error in it, nor a request to anywhere."""
    contexts, wrong = [], []

    def call(path: Path, width: int = 1280, height: int = 900, film: bool = True, **how: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": height}, **how))
        page = contexts[-1].new_page()
        page.set_default_timeout(20_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console",
            lambda message: wrong.append(message.text) if message.type == "error" and film else None,
        )
        page.on(
            "request",
            lambda one: None if one.url.startswith(("file:", "blob:", "data:")) else wrong.append(one.url),
        )
        page.goto(path.as_uri())
        if film:
            wait(page, "film.ready && !film.seeking")
        return page

    yield call
    for context in contexts:
        context.close()
    assert wrong == []


def wait(page: Any, condition: str) -> None:
    """Until an expression is true. Playwright's own waiting evaluates text, which the page forbids."""
    end = time.monotonic() + 30
    while not page.evaluate(f"Boolean({condition})"):
        assert time.monotonic() < end, condition
        time.sleep(0.03)


def go(page: Any, index: int) -> None:
    page.evaluate(f"film.go({index})")
    wait(page, f"view.dataset.frame === '{index}' && !film.seeking")


def click_pixel(page: Any, x: int, y: int) -> str:
    """Click the middle of a pixel of the film; the id that is selected then."""
    box = page.locator("#view").bounding_box()
    page.mouse.click(
        box["x"] + (x + 0.5) * box["width"] / WIDTH, box["y"] + (y + 0.5) * box["height"] / HEIGHT
    )
    return page.locator("#picked").get_attribute("data-id")


@pytest.mark.parametrize("index", [0, 9, 14, FRAMES - 1])
def test_every_map_is_the_pngs(visit: Any, result: Path, index: int) -> None:
    page = visit(result / "report.html")
    go(page, index)
    read = """Array.from({length: data.height}, (_, y) => Array.from({length: data.width},
        (_, x) => (segments[map[maps.at(x, y)] - 1] || {id: 0}).id))"""
    assert page.evaluate(read) == ids_of(index).tolist()


@pytest.mark.parametrize(("width", "index"), [(1280, 3), (390, 21)])
def test_a_click_selects_what_the_png_has_there(visit: Any, result: Path, width: int, index: int) -> None:
    page, ids = visit(result / "report.html", width=width), ids_of(index)
    go(page, index)
    for x, y in (
        (22 + 3 * index, 50),
        (120, 60),
        (2, HEIGHT - 2),
        (80, 2),
        (WIDTH - 1, HEIGHT - 1),
        (120, 47),
        (120, 46),
    ):
        page.keyboard.press("Escape")
        assert click_pixel(page, x, y) == str(ids[y, x] or ""), (x, y)


def test_the_picture_is_the_frame_of_the_map(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    page.locator("#none").click()  # the film alone
    page.locator("#labels").uncheck()
    for index in (0, 1, 2, 11, 12, 5, FRAMES - 1, 20):
        go(page, index)
        wait(page, "!due")
        # A page from the disk may not read its own canvas: look at the screen.
        shot = page.locator("#view").screenshot(type="png")
        assert abs(_grey(shot) - (20 + 7 * index)) <= 3, index


def _grey(png: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(png)).convert("L"))[5:-5, 5:-5].mean())


def test_playing_goes_on_to_the_end_and_stops(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    watch = "new MutationObserver(() => seen.add(view.dataset.frame)).observe(view, {attributes: true})"
    page.evaluate(f"window.seen = new Set(); {watch}")
    page.locator("#speed").select_option("2")
    page.locator("#play").click()
    assert page.locator("#play").get_attribute("aria-label") == "Pause"
    wait(page, f"view.dataset.frame === '{FRAMES - 1}' && !film.playing")
    assert page.evaluate("seen.size") > FRAMES // 4  # a busy machine leaves some out
    assert page.locator("#play").get_attribute("aria-label") == "Play"


def test_the_frame_that_is_shown_follows_the_films_own_times(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    times = page.evaluate("times")
    for index, at in enumerate(times):
        assert (
            page.evaluate(f"[film.at({at}), film.at({at} + 0.05), film.at(film.inside({index}))]")
            == [index] * 3
        )


def test_keys(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    shown = lambda: int(page.locator("#view").get_attribute("data-frame"))  # noqa: E731
    for key, frame in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", FRAMES - 1),
        ("Home", 0),
        ("Shift+ArrowRight", 9),
    ):
        page.keyboard.press(key)
        wait(page, f"view.dataset.frame === '{frame}'")
        assert shown() == frame
    page.keyboard.press("ArrowDown")
    first = page.locator("#picked").get_attribute("data-id")
    page.keyboard.press("ArrowDown")
    second = page.locator("#picked").get_attribute("data-id")
    assert {first, second} == {"7", "300"} and page.locator("tr.on").count() == 1  # things come first
    page.evaluate("select(segments.find((one) => one.id === 300))")
    page.keyboard.press("n")
    wait(page, "view.dataset.frame === '20'")  # it was away before
    page.keyboard.press("p")
    wait(page, "view.dataset.frame === '0'")
    page.keyboard.press("s")
    assert page.evaluate("segments.filter(look.hides).length") == 2
    page.keyboard.press("Escape")
    assert page.locator("#picked").get_attribute("data-id") == "" and not page.evaluate("look.solo")
    opacity = page.evaluate("look.opacity")
    page.keyboard.press("]")
    assert page.evaluate("look.opacity") == pytest.approx(opacity + 0.1)
    for key, name in (("o", "outlines"), ("l", "labels"), ("v", "picture")):
        page.keyboard.press(key)
        assert page.evaluate(f"look.{name}") is False and not page.locator(f"#{name}").is_checked()
    page.keyboard.press("Space")
    assert page.evaluate("film.playing") is True
    page.keyboard.press("Space")
    assert page.evaluate("film.playing") is False
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()


def test_classes_are_switched_on_and_off(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    assert click_pixel(page, 120, 60) == "300"
    page.keyboard.press("Escape")
    page.get_by_role("checkbox", name="person").uncheck()
    assert click_pixel(page, 120, 60) == ""  # what is not shown is not selected
    assert "switched off" in page.locator("#status").inner_text()
    page.locator("#things").click()
    assert page.evaluate("segments.filter(look.hides).map((one) => one.id)") == [3]
    page.locator("#all").click()
    assert page.evaluate("segments.some(look.hides)") is False


def test_copies_the_id_and_a_command_that_a_shell_reads(visit: Any, result: Path) -> None:
    page = visit(result / "report.html", permissions=["clipboard-read", "clipboard-write"])
    click_pixel(page, 22, 50)
    page.locator(".copy-id").click()
    wait(page, "$('status').textContent === 'id copied'")
    assert page.evaluate("navigator.clipboard.readText()") == "7"
    page.locator(".copy-command").click()
    wait(page, "$('status').textContent === 'command copied'")
    words = shlex.split(page.evaluate("navigator.clipboard.readText()"))
    assert words == ["dvis", "export", "masks", str(result), "--only", "7"]
    assert page.locator("#picked code").inner_text() == page.evaluate("command(look.selected)")


def test_table_and_time_lines(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    page.locator("#find").fill("300")
    assert page.locator("#rows tr").count() == 1
    lane = page.locator("#rows canvas")
    assert lane.get_attribute("aria-label") == "seen from 0:05.00 to 0:08.04, in 20 of 30 frames"
    box = lane.bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.5, box["y"] + 10)
    assert page.locator("#picked").get_attribute("data-id") == "300"
    wait(page, "Number(view.dataset.frame) > 12 && Number(view.dataset.frame) < 18")
    assert "not in this frame" in page.locator("#picked").inner_text()
    page.locator("#find").fill("zebra")
    assert page.locator("#empty").is_visible()


def test_names_are_text(visit: Any, tmp_path: Path) -> None:
    page = visit(make_result(tmp_path / "clip", name=HOSTILE) / "report.html")
    assert page.evaluate("window.hacked") is None and page.locator("img").count() == 0
    assert page.locator("h1").text_content() == HOSTILE
    assert page.evaluate("segments.find((one) => one.id === 7).name") == HOSTILE
    page.evaluate("select(segments.find((one) => one.id === 7))")
    assert page.locator(".who").text_content() == HOSTILE


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_nothing_is_wider_than_the_screen(visit: Any, result: Path, width: int) -> None:
    page = visit(result / "report.html", width=width, height=800)
    click_pixel(page, 22, 50)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width < 600:
        sizes = page.evaluate(
            "[...document.querySelectorAll('#transport button:not([hidden])')].map((one) => one.offsetHeight)"
        )
        assert min(sizes) >= 40  # a finger


def test_dark_and_light(visit: Any, result: Path) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    dark, light = (visit(result / "report.html", color_scheme=name) for name in ("dark", "light"))
    assert dark.evaluate(ground) != light.evaluate(ground)
    was = light.evaluate(ground)
    light.locator("#theme").click()
    assert light.evaluate(ground) == dark.evaluate(ground) != was


def test_all_that_can_be_used_has_a_name_and_the_order_is_the_pages(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    unnamed = """[...document.querySelectorAll('button, input, select, canvas, [role]')].filter((one) =>
        !one.closest('[hidden], [aria-hidden=true], dialog') && !(one.ariaLabel || one.textContent.trim() ||
        one.labels?.[0]?.textContent.trim() || one.getAttribute('aria-labelledby') || one.role === 'status'))
        .map((one) => one.outerHTML)"""
    assert page.evaluate(unnamed) == []
    assert (
        page.evaluate(
            'document.querySelectorAll(\'[tabindex]:not([tabindex="-1"]):not([tabindex="0"])\').length'
        )
        == 0
    )
    order = []
    for _ in range(14):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert order[:9] == ["skip", "help", "theme", "scrub", "first", "back", "play", "forward", "speed"]
    assert "Frame 0 with" in page.locator("#view").get_attribute("aria-label")


def test_without_its_film_the_page_shows_the_objects(visit: Any, result: Path, tmp_path: Path) -> None:
    shutil.copy(result / "report.html", tmp_path)
    page = visit(tmp_path / "report.html", film=False)
    wait(page, "!$('notice').hidden")
    assert "report.mp4" in page.locator("#notice").inner_text()
    page.keyboard.press("End")
    wait(page, f"view.dataset.frame === '{FRAMES - 1}'")
    page.locator("#speed").select_option("2")
    page.locator("#play").click()  # on a clock of its own
    wait(page, f"view.dataset.frame === '{FRAMES - 1}' && !film.playing")
    page.locator("#choose").set_input_files(result / "report.mp4")
    wait(page, "film.ready && $('notice').hidden")


def test_scores_and_classes_of_the_table_are_those_of_the_result(visit: Any, result: Path) -> None:
    page = visit(result / "report.html")
    rows = dict(zip(
        page.evaluate("listed.map((one) => one.id)"), page.locator("#rows tr").all_inner_texts(), strict=True
    ))  # fmt: skip
    for id, segment in SEGMENTS.items():
        assert f"{segment.score:.2f}" in rows[id]
