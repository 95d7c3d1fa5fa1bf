"""Take the pictures of the page: `python tools/screenshots.py docs/images` (or `make screenshots`).

Starts the page, drives Chromium through it, and writes PNGs and one
animated GIF in which the language is switched by hand while the model writes. Looks nice on
purpose, but shows what happens: nothing is edited but the ring where somebody pressed, and the seed
is the page's default unless `--seed` says otherwise. `--model gemma` shows what `make real` laid
out. Japanese and Chinese need a font: on Debian fonts-noto-cjk.
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

from neuronsteer.space import SpaceSettings, launch
from neuronsteer.space.settings import DEMO

PROMPT = "The old man looked out of the window, and"
#: In the animation: press this language when so many tokens are there.
PRESSED = "24:fr,58:de,90:ar"
WIDTH = 1280
#: Width of the animation, and the colour of the ring that shows where somebody pressed.
FILM = 820
RING = "#d6336c"
#: What is shown beside a link to the page; it is part of the page.
PREVIEW = Path(__file__).resolve().parents[1] / "neuronsteer" / "space" / "page" / "preview.png"


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
    told = page.locator("#timeline").get_attribute("data-tokens")
    return int(told or 0)


def finish(page: Page) -> None:
    """Wait until the generation is over, take the focus away, and go to the top."""
    page.wait_for_selector("#go:not(.busy)", timeout=240_000)
    page.mouse.move(4, 4)
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")


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
        page = open_page(browser, url, width=WIDTH, height=1180, dark=dark)
        page.click("#go")
        finish(page)
        save(page.screenshot(), out / f"{name}.png")
        if not dark:
            save(page.screenshot(clip=_preview(page)), PREVIEW, 64)
            page.click("#tab-neurons")
            page.mouse.move(4, 4)
            save(page.screenshot(clip=_top(page, "#neurons")), out / "neurons.png")
        page.context.close()
    page = open_page(browser, url, width=390, height=844, scale=2)
    # On a phone text and timeline are in view together while it writes.
    set_range(page, "pace", 6)
    page.click("#go")
    while tokens(page) < 64 and page.locator("#go.busy").count():
        time.sleep(0.05)
    save(page.screenshot(), out / "page-phone.png", 128)
    page.context.close()


def _preview(page: Page) -> dict[str, float]:
    """Where the text is, in the shape in which links are shown."""
    box = page.locator("#text").bounding_box()
    assert box is not None
    width = box["width"] + 36
    return {"x": box["x"] - 18, "y": box["y"] - 12, "width": width, "height": width * 630 / 1200}


def _top(page: Page, panel: str) -> dict[str, float]:
    box = page.locator(panel).bounding_box()
    assert box is not None
    return {"x": 0, "y": 0, "width": WIDTH, "height": min(box["y"] + box["height"] + 16, 1180)}


def animation(browser: Browser, url: str, out: Path, presses: list[tuple[int, str]]) -> None:
    """Film a generation whose language is switched by hand, at the given tokens."""
    # So high that the page does not scroll.
    page = open_page(browser, url, width=WIDTH, height=1800)
    page.locator("#prompt").fill(PROMPT)
    page.locator('.language[data-label="en"]').click()
    # Pictures take time: the model is slowed down until every token gets one.
    page.locator("#pace").evaluate("each => { each.min = 0.5; each.step = 0.5; }")
    set_range(page, "tokens", 120)
    set_range(page, "pace", 1.5)
    page.mouse.move(4, 4)
    page.click("#go")
    page.mouse.move(4, 4)
    page.wait_for_selector("#steered .span")
    top, bottom = (page.locator(each).bounding_box() for each in ("#prompt", "#timeline"))
    assert top is not None and bottom is not None
    clip = {"x": 30, "y": top["y"] - 8, "width": WIDTH - 60}
    clip["height"] = bottom["y"] + bottom["height"] + 14 - clip["y"]
    frames: list[tuple[bytes, tuple[float, float] | None]] = []
    shown = 0
    while page.locator("#go.busy").count():
        count = tokens(page)
        pressed = None
        if presses and count >= presses[0][0]:
            voice = page.locator(f'.language[data-label="{presses.pop(0)[1]}"]')
            box = voice.bounding_box()
            assert box is not None
            voice.click()
            pressed = (
                box["x"] + box["width"] / 2 - clip["x"],
                box["y"] + box["height"] / 2 - clip["y"],
            )
            page.mouse.move(4, 4)
        if count == shown and pressed is None:
            time.sleep(0.02)
            continue
        shown = count
        frames.append((page.screenshot(clip=clip), pressed))
    finish(page)
    frames.append((page.screenshot(clip=clip), None))
    page.context.close()
    _write(frames, out / "switch.gif")


def _write(frames: list[tuple[bytes, tuple[float, float] | None]], file: Path) -> None:
    """Write a GIF, smaller than the page, with a ring where somebody pressed."""
    images: list[Image.Image] = []
    waits: list[int] = []
    ring, left = None, 0
    for data, pressed in frames:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        factor = FILM / image.width
        image = image.resize((FILM, round(image.height * factor)), Image.Resampling.LANCZOS)
        if pressed is not None:
            ring, left = (pressed[0] * factor, pressed[1] * factor), 5
        if ring is not None and left:
            left -= 1
            (x, y), size = ring, 7 + left
            box = (x - size, y - size, x + size, y + size)
            ImageDraw.Draw(image).ellipse(box, outline=RING, width=3)
        images.append(image)
        waits.append(600 if pressed else 110)
    waits[-1] = 4000
    # One palette for all frames. Large areas would take all of it, so the chips of the languages,
    # which are small, are put beside the last frame once more, enlarged.
    last = images[-1]
    chips = last.crop((0, last.height // 2, 170, last.height)).resize((680, 2 * last.height))
    sheet = Image.new("RGB", (FILM + 680, 2 * last.height), RING)
    sheet.paste(last, (0, 0))
    sheet.paste(chips, (FILM, 0))
    palette = sheet.quantize(224, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
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
    parser.add_argument("--model", default=DEMO, help="one that `make real` laid out, or demo")
    parser.add_argument("--only", choices=("still", "animation"))
    parser.add_argument("--press", default=PRESSED, help="languages pressed in the animation")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    server = launch(block=False, settings=SpaceSettings(model=args.model, neurons=args.model))
    server.service.models.wait()
    url = f"{server.url}/?seed={args.seed}"
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=browser_path(), args=["--no-sandbox", "--font-render-hinting=none"]
            )
            if args.only != "animation":
                still(browser, url, args.out)
            if args.only != "still":
                pairs = [each.split(":") for each in args.press.split(",")]
                animation(browser, url, args.out, [(int(at), label) for at, label in pairs])
            browser.close()
    finally:
        server.close()


if __name__ == "__main__":
    main()
