"""Pictures of a finished laptop study in a browser, into docs/images: python -m docs.generate.screenshots [RESULTS]

RESULTS: default results. It needs Chromium; MLflow is pictured as `dynclip ui` opens it, from RESULTS/mlflow.db.
"""

import contextlib
import shutil
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from dynclip.report.figures.plot import small_png

IMAGES = Path(__file__).parents[1] / "images"
SHOTS = {  # name -> page, element at the top, width, height, colour scheme
    "report-front": ("laptop/report.html", "h1", 1440, 900, "light"),
    "report-effects": ("worded/report.html", "#effects", 1440, 1000, "light"),
    "report-samples": ("worded/report.html", "#samples", 1440, 640, "light"),
    "report-dark": ("worded/report.html", "h1", 1100, 700, "dark"),
    "report-phone": ("laptop/report.html", "h1", 390, 1000, "light"),
}
ASSISTANT = '[data-component-id="mlflow.assistant.chat_panel.close"]'  # MLflow shows it at the first visit
PORT = 5055


def main(results: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, (page, top, width, height, scheme) in SHOTS.items():
            url = (results / page).resolve().as_uri()
            shoot(browser, name, url, top, width, height, scheme, ".chart svg path")
        with interface(results) as url:
            shoot(browser, "mlflow", url, "body", 1190, 1000, "light", "text=Group: od", ASSISTANT)


def shoot(browser, name: str, url: str, top: str, width: int, height: int, scheme: str, ready: str, close="") -> None:
    """Write docs/images/<name>.png, once `ready` is there. close: a button that is pressed before."""
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto(url)
    page.wait_for_selector(ready, timeout=120_000)
    if close:
        page.locator(close).click()
    page.locator(top).first.evaluate("element => window.scrollTo(0, element.getBoundingClientRect().top - 12)")
    time.sleep(6 if close else 0.5)  # MLflow loads curve by curve
    (IMAGES / f"{name}.png").write_bytes(small_png(page.screenshot()))
    page.close()


@contextlib.contextmanager
def interface(results: Path):
    """`dynclip ui` on the results; entered with the address of worded's charts."""
    words = ["dynclip", "ui", "--port", str(PORT), "--results", str(results)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield next(line.split()[1] for line in process.stdout if line.startswith("dynclip/worded"))
    finally:
        process.terminate()
        process.communicate()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results"))
