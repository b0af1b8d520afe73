"""The page in a real browser, at the widths of a desk and of a phone."""

import json
import os
import shutil

import numpy as np
import pytest
from selection_cases import pool

from keras_micronets.selection import cluster, top_k, write_report

pytestmark = pytest.mark.slow
pytest.importorskip("matplotlib")

EVIL = "<script>alert('x')</script>$\\frac$ & \"quoted\""
BROWSER, DRIVER = "/usr/bin/chromium", "/usr/bin/chromedriver"
DESK, PHONE = 1280, 390

# The box of each figure, and the smallest text of its plot in CSS pixels.
MEASURE = """
const box = e => { const b = e.getBoundingClientRect();
  return [b.left, b.top + scrollY, b.right, b.bottom + scrollY]; };
const size = t => { const m = t.getScreenCTM();
  return parseFloat(getComputedStyle(t).fontSize) * Math.hypot(m.a, m.b); };
return {
  width: document.documentElement.scrollWidth,
  viewport: document.documentElement.clientWidth,
  text: document.body.innerText,
  scripts: document.scripts.length,
  tables: [...document.querySelectorAll('.scroll')].map(box),
  figures: [...document.querySelectorAll('figure')].map(f => ({
    name: f.id,
    whole: box(f),
    picture: box(f.querySelector('svg')),
    caption: box(f.querySelector('figcaption')),
    texts: [...f.querySelectorAll('svg text')].map(t => t.textContent),
    boxes: [...f.querySelectorAll('svg text')].map(box),
    smallest: Math.min(...[...f.querySelectorAll('svg text')].map(size)),
  })),
};
"""


@pytest.fixture(scope="module")
def browser():
    if not (os.path.exists(BROWSER) and shutil.which(DRIVER)):
        message = f"needs {BROWSER} and {DRIVER}: apt-get install chromium-driver"
        if os.environ.get("REQUIRE_BROWSER"):
            pytest.fail(message)
        pytest.skip(message)
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = BROWSER
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    driver = Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def pages():
    p, y = pool(0, 40, 200, 4, coarse=False, copies=False)
    random = np.random.default_rng(0)
    known = {
        "n_bytes": random.integers(20_000, 90_000, 40),
        "milliseconds": random.uniform(0.5, 2, 40),
        "sparsity": random.uniform(0.5, 0.9, 40),
    }
    names = [f"learner-{i:02d}-with-a-name-that-is-long" for i in range(39)]
    chosen = cluster(p, y, 5, random_state=0)
    names.insert(int(chosen.indices[0]), EVIL)
    yield "clustered", (p, y, chosen), {"names": names, **known}
    yield "two", (p[:2], y, top_k(p[:2], y, 1)), {"names": [EVIL, "b"]}
    yield "many_kept", (p, y, top_k(p, y, 25)), {"names": names}


@pytest.fixture(scope="module", params=list(pages()), ids=lambda page: page[0])
def page(request, tmp_path_factory):
    name, inputs, known = request.param
    path = tmp_path_factory.mktemp("pages") / f"{name}.html"
    return write_report(path, *inputs, n_resamples=2, **known)


def opened(browser, page, width):
    """Open a page at a width that a window could not have, and measure it."""
    metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": True}
    browser.get("about:blank")
    browser.get_log("browser"), browser.get_log("performance")
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(page.as_uri())
    return browser.execute_script(MEASURE)


def requested(browser):
    messages = [
        json.loads(entry["message"]) for entry in browser.get_log("performance")
    ]
    return {
        message["message"]["params"]["request"]["url"]
        for message in messages
        if message["message"]["method"] == "Network.requestWillBeSent"
    }


def touch(a, b, slack=0.5):
    return (
        min(a[2], b[2]) - max(a[0], b[0]) > slack
        and min(a[3], b[3]) - max(a[1], b[1]) > slack
    )


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_lies_within_the_window_and_nothing_overlaps(browser, page, width):
    result = opened(browser, page, width)
    assert result["viewport"] == width
    assert result["width"] <= width
    assert len(result["figures"]) >= 6
    for figure in result["figures"]:
        left, top, right, bottom = figure["picture"]
        assert right - left >= 300, figure["name"]
        assert bottom - top >= 200, figure["name"]
        assert left >= 0, figure["name"]
        assert right <= width, figure["name"]
        assert not touch(figure["picture"], figure["caption"]), figure["name"]
    boxes = [figure["whole"] for figure in result["figures"]] + result["tables"]
    pairs = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i]]
    assert not any(touch(a, b) for a, b in pairs)


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_text_can_be_read(browser, page, width):
    for figure in opened(browser, page, width)["figures"]:
        assert figure["texts"], figure["name"]
        assert figure["smallest"] >= 9, figure["name"]
        boxes, whole = figure["boxes"], figure["picture"]
        for text, box in zip(figure["texts"], boxes, strict=True):
            assert box[0] >= whole[0] - 1, (figure["name"], text)
            assert box[2] <= whole[2] + 1, (figure["name"], text)
        pairs = [(i, j) for i in range(len(boxes)) for j in range(i)]
        overlapping = [
            (figure["texts"][i], figure["texts"][j])
            for i, j in pairs
            if touch(boxes[i], boxes[j], slack=3)
        ]
        assert not overlapping, figure["name"]


def test_needs_only_the_file_and_logs_nothing(browser, page):
    opened(browser, page, DESK)
    assert {url for url in requested(browser) if not url.startswith("data:")} == {
        page.as_uri()
    }
    assert not browser.get_log("browser")


def test_names_are_shown_as_text(browser, page):
    result = opened(browser, page, DESK)
    assert result["scripts"] == 0
    assert EVIL in result["text"]
