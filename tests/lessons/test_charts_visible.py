"""Charts as a reader's browser draws them: in JupyterLab, and in a page without a network.

A figure in a notebook is only data; that it is *seen* depends on an extension of JupyterLab, on
the exporter and on the width of the screen. So a real Chromium looks.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from builder.execution import execute
from builder.normal import normalise, to_text
from builder.page import to_html
from builder.source import Variant, read
from playwright.sync_api import Browser, Locator, Page, sync_playwright

SAMPLE = Path(__file__).parent / "sample_charts"
CHARTS = 3
CAPTIONS = (
    "A's lease ends at step 4 while A stands still; its late order is refused.",
    "Without a lock 37 units are sold that never existed; with it, none.",
    "Polling stays below 60 purchases a second; hand-over keeps above 860.",
)
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--headless",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
START_S = 60
VISIBLE_MS = 30_000
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for this file."""
    names = ("chromium", "chromium-browser", "google-chrome")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        reason = "No Chromium is installed, so no chart can be looked at."
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook with one chart of each kind, run as the builder runs it."""
    folder = tmp_path_factory.mktemp("charts")
    notebook = execute(read(SAMPLE, Variant.LEARNER), folder)
    normalise(notebook, None)
    path = folder / "lesson.ipynb"
    path.write_text(to_text(notebook), "utf-8")
    return path


@pytest.fixture
def jupyterlab(lesson: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a JupyterLab that serves the lesson's folder; stopped afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    folders = ("HOME", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR")
    environment = {**os.environ, **dict.fromkeys(folders, str(tmp_path))}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [
        f"--port={port}",
        "--IdentityProvider.token=",
        f"--ServerApp.root_dir={lesson.parent}",
    ]
    with (tmp_path / "jupyterlab.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield _address(server, tmp_path)
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def test_charts_are_visible_in_jupyterlab(
    browser: Browser, jupyterlab: str, tmp_path: Path
) -> None:
    """JupyterLab draws each chart in its real size, with its caption under it, without error."""
    page, errors = _watched_page(browser, DESKTOP)
    page.goto(f"{jupyterlab}lab/tree/lesson.ipynb")
    charts = page.locator(".jp-RenderedPlotly")

    for number, caption in enumerate(CAPTIONS):
        # JupyterLab draws only the cells in view.
        page.locator(".jp-CodeCell").nth(number + 1).scroll_into_view_if_needed()
        page.get_by_text(caption).first.wait_for(timeout=VISIBLE_MS)
        _assert_drawn(charts.nth(number))
        charts.nth(number).screenshot(path=tmp_path / f"jupyterlab-{number}.png")

    assert [error for error in errors if "plotly" in error.lower()] == []


@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_charts_are_visible_in_a_page_without_network(
    browser: Browser, lesson: Path, tmp_path: Path, screen: dict[str, int]
) -> None:
    """The exported page draws each chart from itself alone, named by its caption; on a phone a
    chart scrolls sideways and the page does not.
    """
    path = tmp_path / "lesson.html"
    path.write_text(to_html(lesson), "utf-8")
    page, errors = _watched_page(browser, screen)
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    page.goto(path.as_uri())

    charts = page.locator(".js-plotly-plot")
    for number, caption in enumerate(CAPTIONS):
        _assert_drawn(charts.nth(number))
        assert page.get_by_role("img", name=caption, exact=True).is_visible()
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    assert charts.count() == CHARTS
    assert errors == []
    assert [url for url in requested if url.startswith("http")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= screen["width"]


def test_a_page_without_plotly_shows_no_chart(
    browser: Browser, lesson: Path, tmp_path: Path
) -> None:
    """Control: with plotly.js taken out of the page, the same look finds no chart, and an error."""
    page, errors = _watched_page(browser, DESKTOP)
    path = tmp_path / "lesson.html"
    path.write_text(to_html(lesson).replace("Plotly.newPlot", "Absent.newPlot"), "utf-8")
    page.goto(path.as_uri())

    assert page.locator(".js-plotly-plot").count() == 0
    assert any("Absent is not defined" in error for error in errors)


def _watched_page(browser: Browser, screen: dict[str, int]) -> tuple[Page, list[str]]:
    page = browser.new_page(viewport={"width": screen["width"], "height": screen["height"]})
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if message.type == "error" else None,
    )
    return page, errors


def _assert_drawn(chart: Locator) -> None:
    drawing = chart.locator("svg.main-svg").first
    drawing.wait_for(state="visible", timeout=VISIBLE_MS)
    box = drawing.bounding_box()
    assert box is not None
    assert box["width"] > 300
    assert box["height"] > 250
    assert chart.locator(".trace, .point").count() > 0


def _address(server: subprocess.Popen[bytes], runtime: Path) -> str:
    """Wait until the server has written its address, which it does once it listens."""
    deadline_s = time.monotonic() + START_S
    note = runtime / f"jpserver-{server.pid}.json"
    while time.monotonic() < deadline_s and server.poll() is None:
        if note.is_file() and (text := note.read_text("utf-8")).endswith("}"):
            return str(json.loads(text)["url"])
        time.sleep(0.1)
    pytest.fail("JupyterLab did not start: " + (runtime / "jupyterlab.log").read_text("utf-8"))
