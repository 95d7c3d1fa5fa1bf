"""Take the pictures of the page: `python tools/screenshots.py docs/images` (or `make screenshots`).

Starts the page with the embedded model, drives Chromium through it, and writes PNGs and one
animated GIF in which the language is switched by hand while the model writes. Looks nice on
purpose, but shows what happens: nothing is edited, and the seed is the page's default unless
`--seed` says otherwise.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import time
from pathlib import Path

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, sync_playwright

from neuronsteer.space import launch

PROMPT = "The old man looked out of the window, and"
#: In the animation: press this language when so many tokens are there.
PRESSED = ((16, "fr"), (34, "ja"), (54, "ar"))
WIDTH = 1280


def browser_path() -> str:
    """Return where Chromium is, or end with a message."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    sys.exit("No chromium here; on Debian: apt-get install chromium")


def open_page(
    browser: Browser, url: str, *, width: int, height: int, dark: bool = False, scale: float = 1
) -> Page:
    """Return a page that is ready."""
    context = browser.new_context(
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("body[data-ready]", timeout=120_000)
    page.wait_for_load_state("networkidle")
    return page


def tokens(page: Page) -> int:
    """Return how many tokens are on the page."""
    told = page.locator("#staff").get_attribute("data-tokens")
    return int(told or 0)


def finish(page: Page) -> None:
    """Wait until the generation is over, and take the focus away."""
    page.wait_for_selector("#go:not(.busy)", timeout=240_000)
    page.mouse.move(4, 4)
    page.evaluate("document.activeElement.blur()")


def set_range(page: Page, name: str, value: float) -> None:
    """Move a slider."""
    page.locator("#tuning").evaluate("each => each.open = true")
    page.locator(f"#{name}").fill(str(value))
    page.locator("#tuning").evaluate("each => each.open = false")


def save(data: bytes, file: Path, colours: int = 255) -> None:
    """Write a PNG with few colours: the page has few."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image = image.quantize(colours, dither=Image.Dither.NONE)
    image.save(file, optimize=True)
    sys.stdout.write(f"{file} {image.size[0]}x{image.size[1]} {file.stat().st_size // 1024} kB\n")


def still(browser: Browser, url: str, out: Path) -> None:
    """Take the pictures that stand still."""
    for name, dark in (("page", False), ("page-dark", True)):
        page = open_page(browser, url, width=WIDTH, height=1080, dark=dark)
        page.click("#go")
        finish(page)
        save(page.screenshot(), out / f"{name}.png")
        if not dark:
            page.click("#tab-neurons")
            page.mouse.move(4, 4)
            save(page.screenshot(clip=_top(page, "#neurons")), out / "neurons.png")
        page.context.close()
    page = open_page(browser, url, width=390, height=844, scale=2)
    page.click("#go")
    finish(page)
    page.evaluate("document.getElementById('text').scrollIntoView()")
    save(page.screenshot(), out / "page-phone.png", 128)
    page.context.close()


def _top(page: Page, panel: str) -> dict[str, float]:
    box = page.locator(panel).bounding_box()
    assert box is not None
    return {"x": 0, "y": 0, "width": WIDTH, "height": min(box["y"] + box["height"] + 16, 1080)}


def animation(browser: Browser, url: str, out: Path) -> None:
    """Film a generation whose language is switched by hand."""
    page = open_page(browser, url, width=WIDTH, height=1000)
    page.locator("#prompt").fill(PROMPT)
    page.locator('.voice[data-label="en"]').click()
    page.locator("#with-controls").evaluate("each => each.checked || each.click()")
    set_range(page, "tokens", 78)
    set_range(page, "pace", 4)
    frames: list[tuple[bytes, tuple[float, float] | None]] = []
    presses = list(PRESSED)
    page.mouse.move(4, 4)
    frames.append((page.screenshot(), None))
    page.click("#go")
    page.mouse.move(4, 4)
    shown = -1
    while page.locator("#go.busy").count():
        count = tokens(page)
        pressed = None
        if presses and count >= presses[0][0]:
            voice = page.locator(f'.voice[data-label="{presses.pop(0)[1]}"]')
            box = voice.bounding_box()
            assert box is not None
            voice.click()
            pressed = (box["x"] + box["width"] * 0.62, box["y"] + box["height"] / 2)
            page.mouse.move(4, 4)
        if count == shown and pressed is None:
            time.sleep(0.02)
            continue
        shown = count
        frames.append((page.screenshot(), pressed))
    finish(page)
    frames.append((page.screenshot(), None))
    page.context.close()
    _write(frames, out / "switch.gif")


def _write(frames: list[tuple[bytes, tuple[float, float] | None]], file: Path) -> None:
    """Write a GIF of every second frame, smaller, with a ring where somebody pressed."""
    size = (800, 625)
    images: list[Image.Image] = []
    waits: list[int] = []
    ring, left = None, 0
    for number, (data, pressed) in enumerate(frames):
        if pressed is not None:
            ring, left = pressed, 4
        if number % 2 and pressed is None and number != len(frames) - 1:
            continue
        image = Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.LANCZOS)
        if ring is not None and left:
            x, y = ring[0] * size[0] / WIDTH, ring[1] * size[0] / WIDTH
            ImageDraw.Draw(image).ellipse(
                (x - 11, y - 11, x + 11, y + 11), outline="#d6336c", width=3
            )
            left -= 1
        images.append(image)
        waits.append(700 if pressed else 160)
    waits[0], waits[-1] = 900, 4000
    # One palette for all, taken from the last frame, where every language is.
    palette = images[-1].quantize(96, dither=Image.Dither.NONE)
    films = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    films[0].save(
        file, save_all=True, append_images=films[1:], duration=waits, loop=0, optimize=True
    )
    sys.stdout.write(f"{file} {len(films)} frames {file.stat().st_size // 1024} kB\n")


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write into")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("still", "animation"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    site = launch(block=False)
    site.desk.shelf.wait()
    url = f"{site.url}/?seed={args.seed}"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path(), args=["--no-sandbox", "--font-render-hinting=none"]
            )
            if args.only != "animation":
                still(browser, url, args.out)
            if args.only != "still":
                animation(browser, url, args.out)
            browser.close()
    finally:
        site.close()


if __name__ == "__main__":
    main()
