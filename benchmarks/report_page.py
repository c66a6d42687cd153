"""Time and size of the page of a results folder, and how fast headless Chromium opens and changes it.

    python benchmarks/report_page.py RESULTS

prints JSON. It needs `pip install playwright` and `apt-get install chromium`; WebGL 2 is computed on the CPU.
"""

import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import machine
from playwright.sync_api import Page, sync_playwright

REPEATS = 3
CHROMIUM = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-sandbox")
CHANGE = """async () => {
    const began = performance.now();
    CHANGE;
    await new Promise((shown) => requestAnimationFrame(() => requestAnimationFrame(shown)));
    return performance.now() - began;
}"""
LAYERS = ("labels", "grid", "jacobian", "uncertainty")
MODES = ("swipe", "checker", "agreement", "difference", "a")


def main(folder: Path) -> None:
    page = (folder / "report.html").resolve()
    writing = [seconds_to_write(folder) for _ in range(REPEATS)]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(CHROMIUM))
        opened = [measure(browser.new_page(), page) for _ in range(REPEATS)]
        browser.close()
    result = {
        "megabytes": page.stat().st_size / 1e6,
        "seconds_of_patchmorph_report": statistics.median(writing),
        **{name: statistics.median(one[name] for one in opened) for name in opened[0]},
        "machine": machine.describe(),
    }
    print(json.dumps(result, indent=2))


def seconds_to_write(folder: Path) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "patchmorph", "report", str(folder)], check=True, stdout=sys.stderr)
    return time.perf_counter() - began


def measure(page: Page, path: Path) -> dict[str, float]:
    """Seconds to the first picture and to all layers, milliseconds of each change until it is shown."""
    began = time.perf_counter()
    page.goto(path.as_uri(), wait_until="commit")
    page.wait_for_selector("#stage[data-first]", state="attached")
    first = time.perf_counter() - began
    page.wait_for_selector("#stage[data-complete]", state="attached", timeout=120_000)
    found = {"seconds_to_first_picture": first, "seconds_to_all_layers": time.perf_counter() - began}
    changes = {f"mode_{mode}": f"setMode('{mode}')" for mode in MODES}
    there = [layer for layer in LAYERS if page.query_selector(f"#layer-{layer}")]
    changes |= {f"layer_{layer}": f"document.getElementById('layer-{layer}').click()" for layer in there}
    for name, change in changes.items():
        found[f"milliseconds_{name}"] = page.evaluate(CHANGE.replace("CHANGE", change))
    page.close()
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
