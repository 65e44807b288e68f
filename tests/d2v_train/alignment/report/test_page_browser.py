"""The page in a real browser: no error, every figure drawn, no part wider than the screen."""

import json
import re
import shutil
import subprocess

import pytest


pytestmark = pytest.mark.browser
# Run by the browser at the end of the page; its result is read from the dumped document.
MEASURE = """
<script>
window.addEventListener("load", () => setTimeout(() => {
  for (const part of document.querySelectorAll("details")) part.open = true;
  const box = element => element.getBoundingClientRect();
  const drawings = [...document.querySelectorAll("svg:not([aria-hidden])")];
  const found = {
    drawings: drawings.length,
    empty: drawings.filter(each => box(each).width < 50 || box(each).height < 20).length,
    narrow: drawings.filter(each => box(each).right > innerWidth + 1 && !each.closest(".scroll")).length,
    pictures: document.images.length,
    broken: [...document.images].filter(each => !each.complete || !each.naturalWidth).length,
    wide: document.documentElement.scrollWidth - innerWidth,
    ground: getComputedStyle(document.body).backgroundColor,
    title: box(document.querySelector(".answer")).top,
  };
  document.title = "measured " + JSON.stringify(found);
}, 500));
</script>
"""


def browser() -> str:
    """Path of Chromium or Chrome; its absence is an error, as the marker says."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "these tests need Chromium, for example from `apt-get install chromium`"
    return found


def opened(path, *options):
    """What a headless browser says about a page: measurements, and its messages."""
    content = path.read_text(encoding="utf-8")
    # The script of the test alone is let in; the page itself has none.
    policy = "default-src &#x27;none&#x27;"
    assert policy in content
    content = content.replace(policy, f"{policy}; script-src &#x27;unsafe-inline&#x27;")
    probe = path.with_name("probe.html")
    probe.write_text(content.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    command = [browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += ["--virtual-time-budget=20000", "--dump-dom", *options, probe.as_uri()]
    run = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    # The dump writes the title as HTML text: quotes stay, and there are no other special characters in it.
    measured = json.loads(re.search(r"<title>measured (\{.*?\})</title>", run.stdout)[1])
    return measured, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.parametrize("size", ["1280,2000", "500,2000"])
def test_every_figure_is_drawn_without_an_error(whole_report, size):
    measured, messages = opened(whole_report, f"--window-size={size}")
    assert messages == []
    assert measured["drawings"] > 30 and measured["empty"] == measured["broken"] == measured["narrow"] == 0
    assert measured["pictures"] > 10 and measured["wide"] <= 0
    assert measured["title"] < 400


def test_the_page_follows_the_theme_of_the_reader(whole_report):
    light, _ = opened(whole_report, "--blink-settings=preferredColorScheme=1")
    dark, _ = opened(whole_report, "--blink-settings=preferredColorScheme=0")
    shades = [sum(map(int, re.findall(r"\d+", each["ground"])[:3])) / 3 for each in (light, dark)]
    assert shades[0] > 230 and shades[1] < 40
