"""Makes the pictures of the READMEs from the outputs stored in the built notebooks of lesson 01.

`python docs/make_images.py` writes docs/images/*.png. It needs Chromium (some of them are HTML) and Pillow.
"""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageChops

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"token_mask": ["mask-article", "mask-mended"], "before_after": ["before-after"]}
STYLE = """<meta charset="utf-8"><style>
body{font:15px/1.5 'DejaVu Sans',sans-serif;margin:16px;width:900px;background:#fff;color:#1f2328}
table{border-collapse:collapse;font-size:14px}td,th{border:1px solid #d0d7de;padding:4px 8px;text-align:left}
</style>"""


def outputs(language: str) -> dict[str, dict]:
    """The first rich output of each cell, by cell id."""
    (path,) = (ROOT / "notebooks" / language).glob("01_*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {
        cell["id"]: next(o["data"] for o in cell["outputs"] if "data" in o)
        for cell in cells
        if any("data" in o for o in cell.get("outputs", []))
    }


def photograph(browser: str, page: str, target: Path) -> None:
    """Screenshot of an HTML page, cut to what is drawn on it."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "page.html")
        source.write_text(STYLE + page, encoding="utf-8")
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--window-size=940,1600", "--disable-background-networking",
                f"--user-data-dir={folder}/profile", f"--screenshot={target}", source.as_uri(),
            ],
            check=True, capture_output=True,
        )
    picture = Image.open(target).convert("RGB")
    box = ImageChops.difference(picture, Image.new("RGB", picture.size, "white")).getbbox()
    picture.crop((0, 0, picture.width, min(picture.height, box[3] + 16))).save(target, optimize=True)


def main() -> int:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("Chromium is needed (Debian: apt-get install chromium).", file=sys.stderr)
        return 1
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)
    for language in ("vi", "en"):
        found = outputs(language)
        (folder / f"loss_curve_{language}.png").write_bytes(base64.b64decode(found["curves"]["image/png"]))
        for name, cells in PAGES.items():
            page = "<br>".join("".join(found[cell]["text/html"]) for cell in cells)
            photograph(browser, page, folder / f"{name}_{language}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
