"""Files of a pair as small as a mouse's brain, on which a registration takes a second."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from estimators import TRUST, estimating_model
from synthetic import AFFINES, grid_around, lopsided, rotation

from patchmorph import catalogue
from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample


@dataclass(frozen=True)
class Files:
    """A pair whose map is known, masks of both images, and a model that finds the map."""

    folder: Path
    truth: Transform  # fixed → moving world
    points: torch.Tensor  # inside the fixed brain, mm

    def __getattr__(self, name: str) -> Path:
        return self.folder / (f"{name}.safetensors" if name == "model" else f"{name}.nii.gz")


def smaller(image: Image) -> Image:
    """A twelfth of the size: smaller than any head of a primate, so no brain is extracted."""
    matrix = image.grid.voxel_to_world.clone()
    matrix[:, :3] /= 12
    return Image(image.data, Grid(image.grid.shape, matrix))


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> Files:
    folder = tmp_path_factory.mktemp("pair")
    pose = rotation(12) @ AffineTransform.translation(torch.tensor([[6.0, -9, 4]]))
    moving = lopsided(grid_around((36, 36, 42), AFFINES["LIA"] * 5, (2, 0, 0)))
    fixed = resample(moving, pose, grid_around((36, 40, 34), AFFINES["RAS"] * 5))
    truth = pose.matrix.clone()
    truth[:, :3, 3] /= 12
    for name, image in (("fixed", fixed), ("moving", moving)):
        small = smaller(image)
        save_image(small, folder / f"{name}.nii.gz")
        # The lower half: the map depends on what a mask keeps.
        half = (small.grid.points_world()[..., 2] < 1.0)[:, None]
        save_image(Image(half.to(torch.uint8), small.grid), folder / f"{name}_mask.nii.gz")
    catalogue.save_model(
        estimating_model(spacings_mm=[6.0, 4.0], affine_passes=2, overlap=0.5), folder / "model.safetensors"
    )
    points = smaller(fixed).grid.points_world()[fixed.data[:, 0] > 0.2][None]
    return Files(folder, AffineTransform(truth), points)


@pytest.fixture(autouse=True)
def trusted(monkeypatch):
    """The model's networks are those of `estimators`."""
    monkeypatch.setenv("PATCHMORPH_TRUST", ",".join(TRUST))
