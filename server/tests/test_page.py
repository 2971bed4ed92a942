# Copyright 2026 AI-102 inference maintainers
# SPDX-License-Identifier: Apache-2.0
"""The page in a real browser, against a real server. Skipped where Chromium is not installed (chromium-driver)."""

from __future__ import annotations

import base64
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, request
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select, WebDriverWait
from werkzeug.serving import make_server

from ai102_server.api import create_app
from ai102_server.config import parse_config
from ai102_server.service import Service
from test_protocol import FakeAccess
from toolkit import ServerProcess, free_port

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
SCREENSHOT = Path(__file__).parent.parent / "docs" / "page.png"

pytestmark = pytest.mark.skipif(
    BROWSER is None or DRIVER is None,
    reason="no browser: install Debian's packages chromium and chromium-driver",
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--hide-scrollbars",
        "--window-size=1280,1400",
        f"--user-data-dir={tmp_path_factory.mktemp('browser')}",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, base_config: dict[str, Any]) -> Iterator[ServerProcess]:
    """One server for all tests; the last one ends it."""
    models = [entry for entry in base_config["models"] if entry["name"] in {"doubling", "slow"}]
    config = {**base_config, "models": models, "listen": {"host": "127.0.0.1", "port": free_port()}}
    server = ServerProcess(tmp_path_factory.mktemp("page") / "server", config)
    server.wait_for("READY=1")
    yield server
    server.close()


def wait(browser: Any, condition: Callable[[Any], Any], seconds: float = 15) -> Any:
    return WebDriverWait(browser, seconds, poll_frequency=0.05).until(condition)


def text(browser: Any, name: str) -> str:
    return str(browser.find_element(By.ID, name).text)


def address(server: ServerProcess) -> str:
    return f"http://127.0.0.1:{server.config['listen']['port']}/"


def open_page(browser: Any, where: str) -> None:
    browser.get_log("browser")
    browser.get(where + "?poll=250")
    wait(browser, lambda b: text(b, "health") == "Ready")


def complaints(browser: Any) -> list[str]:
    """What the browser has to say: errors of scripts, broken policy, files that are not there."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in {"SEVERE", "WARNING"}]


def test_page(browser: Any, server: ServerProcess) -> None:
    open_page(browser, address(server))
    wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, "#models tr .name")) == 3)
    assert text(browser, "count") == "3 of 3 ready"
    assert "ai102-server" in text(browser, "server")
    rows = [row.text for row in browser.find_elements(By.CSS_SELECTOR, "#models tr")]
    assert any("doubling" in row and "version 10" in row and "x FP32 [-1, 3]" in row and "CPU" in row for row in rows)

    # A request of the example, sent and answered.
    browser.find_element(By.CSS_SELECTOR, "button[aria-label='Try doubling version 10']").click()
    assert '"data": [0, 0.1, 0.2]' in browser.find_element(By.ID, "request").get_attribute("value")
    browser.find_element(By.ID, "send").click()
    wait(browser, lambda b: "status 200" in text(b, "answer-state"))
    assert '"data": [0, 0.2, 0.4]' in text(browser, "answer").replace("0.0", "0")

    # A mistake is answered by what the server says of it, and broken JSON is not even sent.
    field = browser.find_element(By.ID, "request")
    browser.execute_script("arguments[0].value = '{}'", field)
    browser.find_element(By.ID, "send").click()
    wait(browser, lambda b: "status 400" in text(b, "answer-state"))
    assert "'inputs' must be a list of tensors" in text(browser, "answer")
    browser.execute_script("arguments[0].value = '{'", field)
    browser.find_element(By.ID, "send").click()
    wait(browser, lambda b: text(b, "answer-state") == "not sent")
    browser.find_element(By.ID, "example").click()

    # The charts move once there was traffic between two looks.
    def traffic(_browser: Any) -> bool:
        server.request("POST", "/v2/models/doubling/infer", _request())
        return float(text(browser, "chart-rate").split()[1].replace("\N{EN DASH}", "0")) > 0

    wait(browser, traffic)
    Select(browser.find_element(By.ID, "chart-model")).select_by_visible_text("slow")
    chart = browser.find_element(By.CSS_SELECTOR, "#chart-rate svg")
    wait(browser, lambda _browser: "now 0 /s" in chart.get_attribute("aria-label"))

    # The 400 was asked for; nothing else went wrong, and nothing was loaded from elsewhere.
    assert [line for line in complaints(browser) if "status of 400" not in line] == []
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert len(loaded) > 5
    assert all(name.startswith(address(server)) for name in loaded)
    assert browser.execute_script("return Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0


def _request(rows: int = 1) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": [rows, 3], "datatype": "FP32", "data": [1, 2, 3] * rows}]}


def test_page_is_accessible(browser: Any, server: ServerProcess) -> None:
    open_page(browser, address(server))
    unnamed = browser.execute_script(
        """return [...document.querySelectorAll('button, input, select, textarea, a, svg')]
        .filter((item) => !(item.labels && item.labels.length) && !item.getAttribute('aria-label')
            && !item.getAttribute('aria-labelledby') && !item.textContent.trim())
        .map((item) => item.outerHTML)"""
    )
    assert unnamed == []
    assert browser.find_element(By.TAG_NAME, "html").get_attribute("lang") == "en"
    levels = browser.execute_script(
        "return [...document.querySelectorAll('main h2, main h3, h1')].map((h) => h.tagName)"
    )
    assert levels[0] == "H1"
    for scheme in ("light", "dark"):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )
        low = browser.execute_script(_CONTRAST)
        assert low == [], scheme
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


_CONTRAST = """
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (item) => {
  for (let at = item; at; at = at.parentElement) {
    const colour = getComputedStyle(at).backgroundColor;
    if (!/, 0\\)$|transparent/.test(colour)) return colour;
  }
  return getComputedStyle(document.documentElement).backgroundColor;
};
return [...document.querySelectorAll('main *, header *, footer *')]
  .filter((item) => item.checkVisibility() && !item.disabled
    && [...item.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
  .map((item) => {
    const [a, b] = [light(getComputedStyle(item).color), light(behind(item))].sort((x, y) => y - x);
    return [item.tagName, item.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)];
  })
  .filter(([, , ratio]) => ratio < 4.5);
"""


class Issuer(FakeAccess):
    """Gives the token ``all`` for one name and password."""

    def routes(self) -> Blueprint:
        routes = Blueprint("access", __name__)

        @routes.post("/auth/token")
        def token() -> Any:
            if (request.form["username"], request.form["password"]) == ("ada", "right"):
                return {"access_token": "all", "token_type": "Bearer", "expires_in": 7200}
            return {"error": "invalid_grant", "error_description": "name or password is wrong"}, 400

        return routes

    def enter(self, environ: Any, operation: str, model: Any) -> FakeAccess:
        return self if operation == "page" else super().enter(environ, operation, model)


@pytest.fixture
def guarded(base_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an application that wants a token for everything but the page itself."""
    access = Issuer()
    service = Service(parse_config({**base_config, "models": base_config["models"][:1]}))
    monkeypatch.setattr(service, "access", access, raising=False)
    monkeypatch.setattr("ai102_server.api.app.blueprint", lambda _access: access.routes())
    server = make_server("127.0.0.1", 0, create_app(service), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_token(browser: Any, guarded: str) -> None:
    browser.get(guarded + "?poll=250")
    dialog = browser.find_element(By.ID, "token-dialog")
    wait(browser, lambda _browser: dialog.is_displayed())
    assert "asks for a token" in text(browser, "notice")
    browser.find_element(By.ID, "username").send_keys("ada")
    browser.find_element(By.ID, "password").send_keys("wrong", Keys.ENTER)
    wait(browser, lambda b: text(b, "token-error") == "name or password is wrong")
    assert browser.find_element(By.ID, "password").get_attribute("value") == ""
    browser.find_element(By.ID, "password").send_keys("right", Keys.ENTER)
    wait(browser, lambda b: text(b, "health") == "Ready")
    wait(browser, lambda b: text(b, "count") == "1 of 1 ready")
    assert not dialog.is_displayed()
    browser.find_element(By.ID, "send").click()
    wait(browser, lambda b: "status 200" in text(b, "answer-state"))
    kept = "return JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"
    assert "all" not in browser.execute_script(kept)
    # Forgotten on demand, and with the page.
    browser.find_element(By.ID, "sign-in").click()
    browser.find_element(By.ID, "token-forget").click()
    wait(browser, lambda b: "asks for a token" in text(b, "notice"))
    browser.find_element(By.ID, "sign-in").click()
    browser.find_element(By.ID, "token").send_keys("all", Keys.ENTER)
    wait(browser, lambda b: text(b, "notice") == "")
    browser.refresh()
    dialog = browser.find_element(By.ID, "token-dialog")
    wait(browser, lambda _browser: dialog.is_displayed())


@pytest.mark.skipif("AI102_SCREENSHOT" not in os.environ, reason="AI102_SCREENSHOT=1 takes the documentation's picture")
def test_screenshot(browser: Any, server: ServerProcess) -> None:
    browser.get(address(server) + "?poll=700")
    wait(browser, lambda b: len(b.find_elements(By.CSS_SELECTOR, "#models tr .name")) == 3)
    browser.find_element(By.CSS_SELECTOR, "button[aria-label='Try doubling version 10']").click()
    browser.find_element(By.ID, "send").click()
    begin = time.monotonic()
    while (at := time.monotonic() - begin) < 43:
        # Some traffic that has a shape.
        for number in range(int(6 + 5 * math.sin(at / 3) + 8 * (18 < at < 26))):
            server.request("POST", "/v2/models/doubling/infer", {} if number == 17 else _request(1 + int(at / 4) % 6))
        time.sleep(0.05)
    browser.execute_script("window.scrollTo(0, 0); document.activeElement.blur()")
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    SCREENSHOT.parent.mkdir(exist_ok=True)
    SCREENSHOT.write_bytes(base64.b64decode(picture["data"]))


def test_page_says_when_the_server_is_gone(browser: Any, server: ServerProcess) -> None:
    open_page(browser, address(server))
    server.terminate()
    server.wait()
    wait(browser, lambda b: text(b, "health") == "No connection")
    assert "does not answer" in text(browser, "notice")
