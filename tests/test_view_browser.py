"""The trajectory browser in a browser: Chromium without a window, through selenium. Run by ``make test-browser``."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from view_runs import NASTY, large_run, small_run

from agentgrpo.cli import main

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """One browser for all tests: starting it takes longer than they do."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    found = [shutil.which(name) for name in ("chromium", "chromedriver")]
    assert all(found), "Chromium is missing: install chromium and chromium-driver (Debian)."
    options = webdriver.ChromeOptions()
    options.binary_location = str(found[0])
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,900",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(found[1])))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = small_run(tmp_path_factory.mktemp("view") / "run").path
    assert main(["view", f"run_dir={run}"]) == 0
    return run / "trajectories.html"


class Page:
    """What a test does with the page, and what it reads from it."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        driver.get("about:blank")
        driver.get_log("browser")
        driver.get(path.as_uri())
        self.until("document.body.classList.contains('ready')")

    def js(self, expression: str) -> Any:
        return self.driver.execute_script(f"return {expression}")

    def until(self, expression: str) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 60, 0.05).until(lambda driver: driver.execute_script(f"return {expression}"))

    def all(self, selector: str) -> list[Any]:
        from selenium.webdriver.common.by import By

        return list(self.driver.find_elements(By.CSS_SELECTOR, selector))

    def texts(self, selector: str) -> list[str]:
        return [
            str(text) for text in self.js(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")
        ]

    def click(self, selector: str, at: int = 0) -> None:
        self.all(selector)[at].click()

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        for key in keys:
            ActionChains(self.driver).send_keys(key).perform()

    def hover(self, selector: str, at: int = 0) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).move_to_element(self.all(selector)[at]).perform()

    @property
    def cursor(self) -> tuple[int, int]:
        return tuple(self.js("[board.member, board.turn]"))


@pytest.fixture
def page(chromium: Any, small: Path) -> Iterator[Page]:
    opened = Page(chromium, small)
    yield opened
    # Neither an error nor something that the page's own policy had to stop.
    assert [entry for entry in chromium.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


def test_a_group_is_shown_side_by_side(page: Page) -> None:
    assert page.texts(".group-row .env") == ["maze", "shop"]
    assert page.texts("#board .head b") == ["#0", "#1"]
    assert page.texts("#board .head .return") == ["1.00", "\u22121.00"]
    assert page.texts("#board .badge")[:2] == ["✓", "✗"]
    assert page.texts('.row[data-turn="0"] .observation') == ["hall", "hall again"]
    assert page.texts('.row[data-turn="2"] .observation') == ["treasure", ""]
    assert page.texts("#board .head .chip") == ["turn limit"]
    # The columns of all rows stand below their heads.
    lefts = (
        "[...document.querySelectorAll('{} > :nth-child(3)')].map((e) => Math.round(e.getBoundingClientRect().left))"
    )
    assert set(page.js(lefts.format("#board .row"))) == set(page.js(lefts.format("#board .heads")))


def test_click_shows_another_group(page: Page) -> None:
    page.click(".group-row", 1)
    page.until("board.group.number === 1")
    assert page.js("location.hash") == "#update-2-group-0"
    assert page.texts(".chip.expert-chip") == ["expert led in"]
    assert page.texts(".term") == ["environment 0.00", "format 1.00"]
    assert "Traceback: boom" in page.texts(".error")
    page.driver.refresh()
    page.until("document.body.classList.contains('ready') && board.group.number === 1")


def test_hostile_texts_are_shown_and_do_nothing(page: Page) -> None:
    page.click(".group-row", 1)
    page.until("board.group.number === 1")
    assert page.js("document.title") == "run · maze · gigpo"
    assert page.js("document.querySelectorAll('#board img, #board script').length") == 0
    shown = page.texts('.cell.end[data-member="1"] .observation')[0]
    assert shown == NASTY.replace("\u202e", "\u2039U+202E\u203a").replace("\x00", "␀").replace("\x1b", "␛")
    written = "".join(page.texts('.turn[data-member="1"] .tok'))
    assert written.startswith('</script><script>document.title="owned"</script><img src=x onerror=')
    page.click("summary")
    assert "</script><script>document.title=" in page.texts("#group-head pre")[0]


def test_colours(page: Page) -> None:
    def classes(member: int) -> set[str]:
        return set(page.js(f"document.querySelector('.turn[data-member=\"{member}\"] .tok').classList.value").split())

    assert classes(0) == {"tok", "policy", "pos"}
    assert classes(1) == {"tok", "policy", "neg"}
    # Advantages 2 and -1: the stronger one fills the scale.
    strength = "document.querySelector('.turn[data-member=\"{}\"] .tok').style.getPropertyValue('--w')"
    assert (page.js(strength.format(0)), page.js(strength.format(1))) == ("100%", "71%")
    page.click('[data-mode="gap"]')
    assert classes(0) == {"tok", "policy", "pos"}
    assert classes(1) == {"tok", "policy"}  # nothing was recomputed for it
    page.click('[data-mode="reference"]')
    assert "had no reference policy" in page.texts("#legend")[0]
    page.click('[data-mode="mask"]')
    assert page.texts(".prompt")[0] == "hall"
    page.click(".group-row", 1)
    page.until("board.group.number === 1")
    assert "".join(page.texts('.turn[data-member="0"] .tok.expert')) == "buy"
    assert "".join(page.texts('.turn[data-member="0"] .tok.policy')) == " tea<|end|>"
    assert "".join(page.texts('.turn[data-member="0"] .tok.env')) == "shop"
    page.click('[data-mode="advantage"]')
    assert page.all(".prompt") == []


def test_a_token_tells_its_figures(page: Page) -> None:
    page.hover('.turn[data-member="0"] .tok')
    page.until("!document.getElementById('tip').hidden")
    tip = page.texts("#tip")[0]
    assert all(part in tip for part in ('"l"', "+2.000", "0.607  (log \u22120.500)", "+0.250"))


def test_step_groups_are_linked(page: Page) -> None:
    assert page.texts("button.state") == ["◆ 1\u00d72", "◆ 1\u00d72"]
    page.hover('.turn[data-member="1"][data-turn="0"] .observation')
    places = "[...document.querySelectorAll('.turn.{}')].map((c) => [+c.dataset.member, +c.dataset.turn])"
    assert page.js(places.format("linked")) == [[0, 0], [1, 0]]
    page.click("button.state", 1)
    assert page.js(places.format("pinned")) == [[0, 0], [1, 0]]
    # To go with gamma 0.5: 0 + 0.5 * 1 and 0 + 0.5 * -1. The best is listed first.
    rows = "[...document.querySelectorAll('#states tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    assert page.js(rows) == [
        ["✓ #0", "1", "left", "0.00", "0.500", "+2.00"],
        ["✗ #1", "1", "back", "0.00", "\u22120.500", "\u22121.00"],
    ]
    page.click("#states tbody tr", 0)
    assert page.cursor == (0, 0)
    page.keys("]")
    assert page.cursor == (1, 0)
    page.keys("\ue00c")
    assert not page.all("#states")[0].is_displayed()


def test_filters(page: Page) -> None:
    from selenium.webdriver.support.ui import Select

    page.click('#success [data-value="yes"]')
    assert page.texts("#count") == ["2 of 4 trajectories in 2 groups"]
    assert page.js("[...document.querySelectorAll('.head')].map((h) => h.classList.contains('unwanted'))") == [
        False,
        True,
    ]
    Select(page.all("#update")[0]).select_by_visible_text("2")
    assert page.texts(".group-row .env") == ["shop"]
    Select(page.all("#status")[0]).select_by_visible_text("turn_limit")
    assert page.texts("#count") == ["0 of 4 trajectories in 0 groups"]
    Select(page.all("#update")[0]).select_by_visible_text("all")
    page.click('#success [data-value="all"]')
    assert page.texts(".group-row .env") == ["maze"]
    Select(page.all("#status")[0]).select_by_visible_text("all")
    Select(page.all("#env")[0]).select_by_visible_text("shop")
    assert page.texts(".group-row .env") == ["shop"]
    Select(page.all("#env")[0]).select_by_visible_text("all")
    Select(page.all("#order")[0]).select_by_visible_text("lowest return")
    assert page.texts(".group-row .mean") == ["0.00", "0.50"]
    Select(page.all("#order")[0]).select_by_visible_text("most turns")
    assert page.texts(".group-row .env") == ["maze", "shop"]


def test_search(page: Page) -> None:
    page.keys("/", *"BOOM")
    page.until("filters.query === 'boom'")
    page.until("board.group.number === 1")
    assert page.texts(".group-row .env") == ["shop"]
    assert page.texts("#count") == ["1 of 4 trajectories in 1 group"]
    assert page.texts("mark") == ["boom"]
    assert page.cursor == (1, 1)
    page.keys("\ue00c")
    page.until("filters.query === ''")
    assert page.texts("#count") == ["4 of 4 trajectories in 2 groups"]


def test_keys(page: Page) -> None:
    right, down, up = "\ue014", "\ue015", "\ue013"
    page.keys(right, down, down, down)
    assert page.cursor == (1, 2)  # the end of the episode, and no further
    page.keys(up)
    assert page.js("document.querySelectorAll('.cell.cursor').length") == 1
    assert "pit" in page.texts(".cell.cursor")[0]
    page.keys("\ue007")
    assert page.texts("#board .head b") == ["#1"]
    page.keys("\ue00c")
    assert page.texts("#board .head b") == ["#0", "#1"]
    page.keys("j")
    page.until("board.group.number === 1")
    page.keys("j", "k")
    page.until("board.group.number === 0")
    page.keys("G")
    page.until("board.group.number === 1")
    page.keys("g")
    page.until("board.group.number === 0")
    page.keys("s")
    assert page.all("#states")[0].is_displayed()
    page.keys("\ue00c", "c")
    assert page.js("board.mode.key") == "logprob"
    page.keys("C", "t")
    assert page.texts(".prompt")[0] == "hall"
    page.keys("t", "f")
    assert page.texts("#count") == ["2 of 4 trajectories in 2 groups"]


def test_help_lists_every_key(page: Page) -> None:
    page.keys("?")
    assert page.js("document.getElementById('help').open")
    assert len(page.texts("#help kbd")) == page.js("KEYS.flatMap((entry) => entry.keys).length")
    page.keys("j")
    assert page.js("list.selected") == 0
    page.click("#help .close")
    assert not page.js("document.getElementById('help').open")


def test_light_and_dark(page: Page) -> None:
    back = "getComputedStyle(document.body).backgroundColor"

    def prefer(scheme: str) -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    prefer("light")
    light = page.js(back)
    prefer("dark")
    dark = page.js(back)
    assert light != dark
    page.keys("d")
    assert page.js(back) == light
    page.driver.refresh()
    page.until("document.body.classList.contains('ready')")
    assert page.js(back) == light
    page.click("#theme")
    assert page.js(back) == dark
    page.js("localStorage.clear()")


def test_a_run_without_tokenizer_still_going(chromium: Any, tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", finished=False, with_tokenizer=False).path
    assert main(["view", f"run_dir={run}"]) == 0
    page = Page(chromium, run / "trajectories.html")
    notes = page.texts("#notes p")
    assert "still going" in notes[0]
    assert "No tokenizer.json" in notes[1]
    assert page.texts(".completion .observation")[0] == "left"
    assert page.texts(".completion .tok")[-1] == "#0 "


def test_ten_thousand_trajectories_stay_usable(chromium: Any, tmp_path: Path) -> None:
    run = large_run(tmp_path / "run", num_updates=50, groups=25, size=8, turns=8).path
    assert main(["view", f"run_dir={run}"]) == 0
    path = run / "trajectories.html"
    assert path.stat().st_size < 60e6
    page = Page(chromium, path)
    print(f"{path.stat().st_size / 1e6:.1f} MB, ready after {page.js('performance.now()') / 1000:.2f} s at most")
    assert page.texts("#count") == ["10,000 of 10,000 trajectories in 1,250 groups"]
    # Only what is in sight exists.
    assert page.js("document.querySelectorAll('*').length") < 6000
    page.keys("G")
    page.until("board.group.number === 1249")
    assert page.js("document.querySelectorAll('.group-row').length") < 60
    assert page.texts(".group-row.chosen .place") == ["update 50 · group 24"]
    # Searched through all chunks: room 7 with 3 keys.
    page.keys("/", *"room 7. exits: north, south, east. you have 3 keys")
    page.until("filters.query.length > 20")
    found = page.js("filters.found.size")
    assert 0 < found < 10_000
    assert page.texts("#count")[0].startswith(f"{found:,} of 10,000 trajectories")
    assert page.texts("mark")
