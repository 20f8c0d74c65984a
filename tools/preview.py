"""How fast Bokeh Focus draws its preview in this machine's Chromium without a GPU: `python tools/preview.py`.

A drawn scene of 768 x 512 px whose plane of focus moves with each frame, as while the focus is dragged, at three blurs.
Prints the frames that came to the screen in a second, the time to draw one, and what all of the browser's processes
computed for one. Runs inside the environment of the tests, where playwright is at hand.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

WEB = Path(__file__).resolve().parents[1] / "web"
INSIDE = "COMFYUI_BOKEH_PREVIEW"
SIZE, SECONDS = (768, 512), 3.0
# Blur and radius in px of the largest discs.
BLURS = {"weak": 12, "strong": 30, "widest": 60}

PREPARE = """
async ([width, height]) => {
  const { Preview } = await import("/lib/focus_preview.js");
  const canvas = document.body.appendChild(document.createElement("canvas"));
  canvas.style.width = "420px";
  const context = new OffscreenCanvas(width, height).getContext("2d");
  for (let y = 0; y < height; y += 8)
    for (let x = 0; x < width; x += 8) {
      context.fillStyle = `hsl(${(x * 7 + y * 13) % 360} 60% ${(x ^ y) & 8 ? 30 : 70}%)`;
      context.fillRect(x, y, 8, 8);
    }
  const values = Float32Array.from({ length: width * height }, (_, i) => {
    const [x, y] = [i % width, Math.floor(i / width)];
    return Math.hypot(x - width / 3, y - height / 2) < height / 4 ? 0.9 : 0.1 + (0.6 * y * x) / (height * width);
  });
  const preview = new Preview(canvas);
  preview.setScene(context.canvas.transferToImageBitmap(), { width, height, values });
  const frame = (i, gain) => {
    const start = performance.now();
    preview.draw({ plane: 0.5 + 0.4 * Math.sin(i / 7), gain, sharp: 0, limit: 0.5, overlay: false, plain: false });
    return performance.now() - start;
  };
  window.play = async (gain, seconds) => {
    const took = [], start = performance.now();
    while (performance.now() - start < 1000 * seconds) {
      took.push(frame(took.length, gain));
      await new Promise(requestAnimationFrame);
    }
    return { frames: took.length, seconds: (performance.now() - start) / 1000, took };
  };
}
"""


def main() -> int:
    """Run inside the host's environment; outside it, set that up and start again there."""
    if os.environ.get(INSIDE):
        return measure()
    from inside import run_inside

    return run_inside(__file__, sys.argv[1:], INSIDE)


def measure() -> int:
    """Print a line for each blur."""
    from playwright.sync_api import sync_playwright
    from setup.browser import find_chromium

    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=str(find_chromium()), args=arguments)
        page = browser.new_page()
        page.route("**/*", _serve)
        page.goto("http://preview.test/")
        page.evaluate(PREPARE, list(SIZE))
        for name, gain in BLURS.items():
            # The first frames find how many samples there is time for.
            page.evaluate("(gain) => window.play(gain, 0.5)", gain)
            before = _computed()
            played = page.evaluate("([gain, seconds]) => window.play(gain, seconds)", [gain, SECONDS])
            frames, took = played["frames"], sorted(played["took"])
            print(
                f"{name:7} {frames / played['seconds']:5.1f} frames a second; to draw one: median "
                f"{took[len(took) // 2]:.1f} ms, slowest of twenty {took[int(0.95 * len(took))]:.1f} ms; "
                f"{1000 * (_computed() - before) / frames:.1f} ms of the processor",
                flush=True,
            )
        browser.close()
    print("load", *(f"{load:.1f}" for load in os.getloadavg()), "cores", os.cpu_count(), time.strftime("%Y-%m-%d"))
    return 0


def _serve(route) -> None:
    """The pack's scripts to a page that has nothing else."""
    file = WEB / route.request.url.split("/", 3)[3]
    if file.is_file():
        route.fulfill(body=file.read_text(encoding="utf-8"), content_type="text/javascript")
    else:
        route.fulfill(body="<!doctype html><body>", content_type="text/html")


def _computed() -> float:
    """Seconds that this process and all that it started have computed."""
    import psutil

    own = psutil.Process()
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(time.user + time.system for time in times)


if __name__ == "__main__":
    sys.exit(main())
