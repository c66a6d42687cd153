"""Pictures of docs/template.md and docs/register.md: a copy of MNI152, moved by a known map, comes back."""

import base64
import io
import re
import tempfile
from pathlib import Path

from PIL import Image as Picture

from patchmorph import demo
from patchmorph.evaluation.pairs import PairPaths
from patchmorph.io.images import save_image
from patchmorph.jobs import RegistrationRequest, register_files
from patchmorph.transforms.resample import resample

IMAGES = Path(__file__).parents[1] / "docs" / "images"
NAMES = ("template.png", "deformation.png")
"""Of the report's figures, in their order."""
WIDTH = 900


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
    figures = re.findall(r'data:image/png;base64,([^"]+)', page)
    for figure, file in zip(figures, NAMES, strict=True):
        picture = Picture.open(io.BytesIO(base64.b64decode(figure))).convert("RGB")
        picture.thumbnail((WIDTH, WIDTH))
        picture.quantize(256).save(IMAGES / file, optimize=True)


if __name__ == "__main__":
    main()
