"""The report in headless Chromium: `python tests/browser.py [--out FOLDER] [REPORT.html ...]`.

Without a page it writes a comparison to look at, and takes the committed report of eleven methods
beside it, which is as large as they get. Each page is opened as a file at phone and desktop
width, light and dark, and everything that is folded is unfolded: no message in the console, no
request but for the page itself, nothing wider than the window, no text that is too small or too
faint, every chart with a size and its labels inside, and the keyboard is enough. Screenshots go to
the folder. Exit code 1 where anything is wrong; without a Chromium on the path a line, and 0.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from chromium import Chromium, found

FAMILY = Path(__file__).resolve().parents[1] / "benchmarks/results/family/report/report.html"
SECONDS = 300.0
"""For one answer of the browser: a large page on a busy machine takes its time."""
WIDTHS = {"phone": (360, 740), "desktop": (1280, 900)}
QUIET = {
    "Runtime.exceptionThrown",
    "Runtime.consoleAPICalled",
    "Log.entryAdded",
    "Page.javascriptDialogOpening",
}
"""What a page that is well does not make the browser say."""

UNFOLD = "document.querySelectorAll('details').forEach(d => d.open = true)"
OVERFLOW = """(() => {
  const wide = document.documentElement.clientWidth, out = [];
  if (document.documentElement.scrollWidth > wide) out.push(`the page is ${
    document.documentElement.scrollWidth} wide in ${wide}`);
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('.scroll, pre, svg, .skip')) continue;
    const box = e.getBoundingClientRect();
    if (box.width && (box.right > wide + 0.5 || box.left < -0.5))
      out.push(`<${e.tagName}> ${e.textContent.slice(0, 30)} goes to ${box.right}`);
  }
  return out.slice(0, 5);
})()"""
TEXT = """(() => {
  const rgb = c => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = c => c.slice(0, 3).map(x => x / 255).map(
    x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4
  ).reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length === 3 || c[3] > 0.99) return c;
    }
    return [255, 255, 255];
  };
  const out = [], seen = {small: 99, faint: 99, count: 0};
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || e.closest('script, title, desc, .skip')) continue;
    const look = getComputedStyle(e), box = e.getBoundingClientRect();
    if (!box.width || look.visibility === 'hidden') continue;
    const drawn = e.closest('svg');
    const scale = drawn ? drawn.getBoundingClientRect().width / drawn.viewBox.baseVal.width : 1;
    const size = parseFloat(look.fontSize) * scale;
    const a = light(rgb(drawn ? look.fill : look.color)), b = light(ground(e));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    seen.count++;
    seen.small = Math.min(seen.small, size);
    seen.faint = Math.min(seen.faint, contrast);
    const what = walk.currentNode.data.trim().slice(0, 30);
    if (size < 9.5) out.push(`"${what}" is ${size.toFixed(1)} px`);
    if (contrast < 4.5) out.push(`"${what}" has a contrast of ${contrast.toFixed(2)}`);
  }
  return {wrong: out.slice(0, 5), seen};
})()"""
CHARTS = """(() => {
  const out = [];
  let count = 0;
  for (const svg of document.querySelectorAll('figure > svg')) {
    const box = svg.getBoundingClientRect(), name = svg.querySelector('title').textContent;
    count++;
    if (box.width < 200 || box.height < 120) out.push(`${name} is ${box.width} x ${box.height}`);
    let lines = 0;
    for (const e of svg.querySelectorAll('.line')) {
      const b = e.getBoundingClientRect();
      if (b.width + b.height > 0) lines++;
    }
    if (!lines) out.push(`${name} shows no line`);
    const ends = [];
    for (const e of svg.querySelectorAll('text')) {
      const b = e.getBoundingClientRect();
      if (b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 ||
          b.bottom > box.bottom + 1) out.push(`${name}: "${e.textContent}" leaves the picture`);
      for (const o of ends)
        if (b.left < o.right - 1 && o.left < b.right - 1 && b.top < o.bottom - 3 &&
            o.top < b.bottom - 3) out.push(`${name}: "${e.textContent}" lies on another text`);
      ends.push(b);
    }
  }
  return {wrong: out.slice(0, 5), count};
})()"""
FOCUS = """(() => {
  const e = document.activeElement, look = getComputedStyle(e);
  return [e.tagName, e.className || '', e.id || '', parseFloat(look.outlineWidth) || 0,
          e.getBoundingClientRect().left];
})()"""


def look(browser: Chromium, path: Path, size: str, dark: bool, out: Path) -> list[str]:
    """What is wrong with a page at a width, in a theme."""
    start = time.monotonic()
    browser.events.clear()
    width, height = WIDTHS[size]
    browser.open(path, width, height, dark)
    theme = "dark" if dark else "light"
    browser.picture(out / f"{path.stem}-{size}-{theme}.png")
    browser.run(UNFOLD)
    wrong = list(browser.run(OVERFLOW))
    text, charts = browser.run(TEXT), browser.run(CHARTS)
    wrong += text["wrong"] + charts["wrong"]
    if not text["seen"]["count"] or not charts["count"]:
        wrong.append("there is no text, or no chart")
    said = browser.run("[getComputedStyle(document.body).backgroundColor]")[0]
    if (sum(int(x) for x in said[4:-1].split(",")[:3]) < 300) != dark:
        wrong.append(f"the page is {said} where the system asks for {theme}")
    wrong += themes(browser, theme)
    if size == "desktop" and not dark:
        wrong += keyboard(browser)
    wrong += heard(browser, path)
    print(
        f"{path.name} {size} {theme}: {charts['count']} charts, {text['seen']['count']} texts, "
        f"smallest {text['seen']['small']:.1f} px, least contrast {text['seen']['faint']:.2f}, "
        f"{len(wrong)} wrong, {time.monotonic() - start:.1f} s",
        flush=True,
    )
    return [f"{path.name} {size} {theme}: {w}" for w in wrong]


def themes(browser: Chromium, theme: str) -> list[str]:
    """What is wrong with the page's own button, and with the other theme."""
    ground = "getComputedStyle(document.body).backgroundColor"
    before = browser.run(ground)
    browser.run("document.getElementById('theme').click()")
    after = browser.run(ground)
    wrong = [f"by the button: {w}" for w in browser.run(TEXT)["wrong"]]
    if after == before:
        wrong.append("the button does not change colours")
    if theme.capitalize() not in browser.run("document.getElementById('theme').textContent"):
        wrong.append("the button does not say what it would do")
    browser.run("document.getElementById('theme').click()")
    if browser.run(ground) != before:
        wrong.append("the button does not change colours back")
    return wrong


def keyboard(browser: Chromium) -> list[str]:
    """What is wrong without a mouse: the skip link first, every stop seen, all buttons reached."""
    wrong = []
    browser.run("document.querySelectorAll('details').forEach(d => d.open = false)")
    browser.run("scrollTo(0, 0); document.activeElement.blur()")
    stops: list[list[Any]] = []
    for _ in range(browser.run("document.querySelectorAll('*').length")):
        browser.press("Tab", 9)
        stop = browser.run(FOCUS)
        if stop[0] == "BODY":
            break
        stops.append(stop)
    if not stops or stops[0][1] != "skip" or stops[0][4] < 0:
        wrong.append(f"the first stop is {stops[:1]} and not the skip link in sight")
    wrong += [f"the stop {s[:3]} has no outline" for s in stops if s[3] < 2][:3]
    return wrong + reached(browser, stops)


def reached(browser: Chromium, stops: list[list[Any]]) -> list[str]:
    """What keys cannot do."""
    wrong = []
    reach = {"A", "BUTTON", "SUMMARY", "DIV"} - {s[0] for s in stops}
    if reach:
        wrong.append(f"the keyboard does not reach {sorted(reach)}")
    browser.run("document.querySelector('figure summary').focus()")
    browser.press("Enter", 13, "\r")
    if not browser.run("document.querySelector('figure details').open"):
        wrong.append("Enter does not unfold numbers")
    browser.run("document.querySelector('.skip').focus()")
    browser.press("Enter", 13, "\r")
    if browser.run("document.activeElement.id") != "main":
        wrong.append("the skip link does not lead to the results")
    if browser.run("!!document.querySelector('button[data-only]')"):
        rows = "[...document.querySelectorAll('#settings-0 tbody tr')].filter(r => r.offsetHeight)"
        before = browser.run(f"{rows}.length")
        browser.run("document.querySelector('button[data-only]').focus()")
        browser.press("Enter", 13, "\r")
        if not 0 < browser.run(f"{rows}.length") < before:
            wrong.append("the button does not leave only what differs")
    return wrong


def heard(browser: Chromium, path: Path) -> list[str]:
    """Messages and requests that there should not be."""
    wrong = []
    for event in browser.events:
        method, params = event.get("method", ""), event.get("params", {})
        if method in QUIET:
            wrong.append(f"{method}: {str(params)[:200]}")
        if method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url.partition("#")[0] != path.resolve().as_uri():
                wrong.append(f"a request for {url[:200]}")
        if method == "Network.webSocketCreated":
            wrong.append(f"a socket to {params['url'][:200]}")
    return wrong


def example(folder: Path) -> list[Path]:
    """A comparison with folders and rows of the store, and a run, as pages."""
    import reported
    from surefoot.cli import main as surefoot

    os.chdir(folder)
    compared = reported.compared()
    one = next(folder.glob("runs/trpo-*Pendulum*/seed-0"))
    for name, path in (("comparison", compared), ("run", one)):
        if surefoot(["report", str(path), "--out", name, "--no-pictures"]):
            raise RuntimeError(f"there is no report of {path}")
        (folder / name / "report.html").rename(folder / f"{name}.html")
    shutil.copy(FAMILY, folder / "family.html")  # under a name that screenshots can go by
    return [folder / f"{name}.html" for name in ("comparison", "run", "family")]


def check(program: str, pages: list[Path], out: Path) -> list[str]:
    """What is wrong with pages."""
    out.mkdir(parents=True, exist_ok=True)
    wrong = []
    with Chromium(program, SECONDS) as browser:
        for path in pages:
            for size in WIDTHS:
                for dark in (False, True):
                    wrong += look(browser, path, size, dark, out)
    return wrong


def main() -> int:
    """Parse, open, say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("build/browser"))
    asked = parser.parse_args()
    program = found()
    if program is None:
        print("no Chromium is on the path: the report was not opened in a browser")
        return 0
    out = asked.out.resolve()
    with tempfile.TemporaryDirectory() as folder:
        pages = [p.resolve() for p in asked.pages] or example(Path(folder))
        wrong = check(program, pages, out)
    print("\n".join(wrong) if wrong else f"all is well; screenshots in {asked.out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
