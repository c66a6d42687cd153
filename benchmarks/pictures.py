"""Pictures of docs/template.md and docs/register.md: a copy of MNI152, moved by a known map, comes back."""

import base64
import io
import re
import tempfile
from pathlib import Path

from PIL import Image as Picture
from PIL import ImageDraw

from patchmorph import demo
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.images import save_image
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.transforms.resample import resample

IMAGES = Path(__file__).parents[1] / "docs" / "images"
NAMES = ("template.png", "deformation.png")
"""Of the report's figures, in their order."""
COLUMNS = 3
TITLE = 24
"""Pixels of a title below its picture."""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        template, _ = demo.mni152(2)
        pose, flow = demo.known_map(template.grid)
        grid = demo.moving_grid(pose, template.grid.center_world)
        save_image(resample(template, (pose @ flow).inverse(), grid), folder / "subject.nii.gz")
        pair = PairPaths(Path("mni152"), folder / "subject.nii.gz")
        register_files(RegistrationRequest(pair, folder / "results"))
        page = (folder / "results" / "report.html").read_text(encoding="utf-8")
    panels = re.findall(r'alt="([^"]+)" src="data:image/png;base64,([^"]+)"', page)
    for number, file in enumerate(NAMES):
        figure = panels[2 * COLUMNS * number : 2 * COLUMNS * (number + 1)]
        mosaic(figure).quantize(256).save(IMAGES / file, optimize=True)


def mosaic(panels: list[tuple[str, str]]) -> Picture.Image:
    """Two rows of pictures with their titles below."""
    opened = [(title, Picture.open(io.BytesIO(base64.b64decode(data)))) for title, data in panels]
    rows = [opened[:COLUMNS], opened[COLUMNS:]]
    heights = [max(picture.height for _, picture in row) + TITLE for row in rows]
    whole = Picture.new("RGB", (sum(picture.width for _, picture in rows[0]), sum(heights)))
    for row, height, top in zip(rows, heights, (0, heights[0]), strict=True):
        left = 0
        for title, picture in row:
            whole.paste(picture, (left, top + (height - TITLE - picture.height) // 2))
            middle = (left + picture.width // 2, top + height - TITLE // 2)
            ImageDraw.Draw(whole).text(middle, title, "white", anchor="mm", font_size=14)
            left += picture.width
    return whole


if __name__ == "__main__":
    main()
