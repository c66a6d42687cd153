"""What docs/transforms.md tells a reader to type works.

But for ANTs and surfa, which want environments of their own: benchmarks/transforms.py runs those lines.
"""

import re
import shlex
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
import torch
from nibabel import gifti
from synthetic import AFFINES, grid_around, rotation, smooth_image, smooth_velocity

from patchmorph import cli
from patchmorph.images.volume import Image
from patchmorph.io.grids import matrix_of
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.transforms.base import AffineTransform, Transform
from patchmorph.transforms.resample import resample
from patchmorph.transforms.velocity import VelocityField

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "transforms.md").read_text(encoding="utf-8")
INNER = (slice(6, -6),) * 3
"""Where interpolation does not meet the end of an array."""


def known() -> Transform:
    flow = smooth_velocity(grid_around((24, 28, 24), AFFINES["RAS"] * 8), 3.0)
    ends = torch.ones(24, 28, 24)
    for axis in range(3):  # fields of ours vanish at their ends
        ends.index_fill_(axis, torch.tensor([0, ends.shape[axis] - 1]), 0)
    return rotation(8) @ VelocityField(flow.velocity * ends, flow.grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where everything on the page was run, on a known map between two synthetic brains."""
    folder = tmp_path_factory.mktemp("page")
    fixed = smooth_image(grid_around((52, 60, 48), AFFINES["LAS"] * 3.5))
    moving = smooth_image(grid_around((54, 48, 62), AFFINES["LIA"] * 3.4, (3, 2, -4)))
    save_image(fixed, folder / "fixed.nii.gz")
    save_image(moving, folder / "moving.nii.gz")
    save_image(moving, folder / "other.nii.gz")
    save_image(Image((moving.data * 9).to(torch.int16), moving.grid), folder / "labels.nii.gz")
    (folder / "results").mkdir()
    save_transform(known(), folder / "results" / "transform.safetensors")
    stored = load_transform(folder / "results" / "transform.safetensors")
    save_transform(stored, folder / "results" / "transform.h5")
    save_transform(AffineTransform.translation(torch.tensor([[4.0, 0, 0]])), folder / "moving_to_other.tfm")
    for name in ("points", "landmarks"):
        (folder / f"{name}.csv").write_text("label,x,y,z\nhere,10,20,-5\n")
    triangle = gifti.GiftiDataArray(np.eye(3, dtype=np.float32) * 20, "NIFTI_INTENT_POINTSET")
    nibabel.save(gifti.GiftiImage(darrays=[triangle]), folder / "white.surf.gii")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_page()
    return folder


def run_page() -> None:
    """In this process: each command of its own would start Python for three seconds."""
    for language, code in re.findall(r"```(bash|python)\n(.*?)```", PAGE, flags=re.DOTALL):
        if language == "python":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other tools
                exec(code, {})
            continue
        for line in code.splitlines():
            tool, *arguments = shlex.split(line)
            assert tool == "patchmorph"
            cli.app(arguments, standalone_mode=False)


def values(path: Path) -> np.ndarray:
    return nibabel.load(path).get_fdata()


def test_images_that_tools_warp_are_ours(folder):
    ours = values(folder / "warped.nii.gz")
    assert ours.max() > 0.8
    for tool in ("simpleitk", "nitransforms"):
        np.testing.assert_allclose(values(folder / f"by_{tool}.nii.gz")[INNER], ours[INNER], atol=2e-3)


def test_labels_are_the_same_in_both_ways(folder):
    by_command, by_python = values(folder / "warped_labels.nii.gz"), values(folder / "labels_in_fixed.nii.gz")
    assert len(np.unique(by_command)) > 5
    np.testing.assert_array_equal(by_command, by_python)
    assert {item.name for item in (folder / "both").iterdir()} == {"moving.nii.gz", "labels.nii.gz"}
    assert nibabel.load(folder / "both" / "labels.nii.gz").header.get_zooms() == (2, 2, 2)


def test_a_list_is_one_map(folder):
    composed = load_transform(folder / "fixed_to_other.safetensors")
    fixed, other = load_image(folder / "fixed.nii.gz"), load_image(folder / "other.nii.gz")
    expected = resample(other, composed, fixed.grid).data[0, 0].numpy()
    for name in ("other_in_fixed", "other_by_greedy"):
        np.testing.assert_allclose(values(folder / f"{name}.nii.gz"), expected, atol=1e-3)
    points = fixed.grid.corners_world().float() / 2
    torch.testing.assert_close(
        composed(points), known()(points) + torch.tensor([4.0, 0, 0]), atol=1e-2, rtol=0
    )


def test_the_inverse_undoes_the_map(folder):
    points = torch.rand(1, 200, 3, generator=torch.Generator().manual_seed(0)) * 80 - 40
    exact = load_transform(folder / "inverse.safetensors")
    torch.testing.assert_close(exact(known()(points)), points, atol=5e-3, rtol=0)
    in_file = load_transform(folder / "inverse.h5")
    assert (in_file(known()(points)) - points).norm(dim=-1).mean() < 0.05  # tabulated at 5 mm
    assert values(folder / "missed.nii.gz").max() < 1e-2


def test_points_and_surfaces_go_with_the_map(folder):
    def read(name):
        _, line = (folder / name).read_text().splitlines()
        assert line.startswith("here,")
        return torch.tensor([[[float(value) for value in line.split(",")[1:]]]])

    start, flip = torch.tensor([[[10.0, 20, -5]]]), torch.tensor([-1.0, -1, 1])
    torch.testing.assert_close(read("points_in_moving.csv"), known()(start), atol=2e-3, rtol=0)
    back = known().inverse()(start * flip) * flip
    torch.testing.assert_close(read("landmarks_in_fixed.csv"), back, atol=2e-3, rtol=0)
    (surface,) = nibabel.load(folder / "white_in_fixed.surf.gii").darrays
    expected = known().inverse()(torch.eye(3)[None] * 20)[0].numpy()
    np.testing.assert_allclose(surface.data, expected, atol=2e-3)


def test_a_point_and_the_image_under_it_agree(folder):
    """Landmarks painted into the moving image, warped, and the same landmarks moved as points."""
    moving = load_image(folder / "moving.nii.gz").grid
    landmarks = torch.rand(12, 3, generator=torch.Generator().manual_seed(0)) * 60 - 30
    rows = [",".join(map(str, landmark)) for landmark in landmarks.tolist()]
    (folder / "marks.csv").write_text("\n".join(["x,y,z", *rows]))
    voxels = ["--frame", "ras", "--output-frame", str(folder / "fixed.nii.gz")]
    transform, output = str(folder / "results" / "transform.h5"), str(folder / "marks_in_fixed.csv")
    cli.app(
        ["apply-points", transform, str(folder / "marks.csv"), "-o", output, "--inverse", *voxels],
        standalone_mode=False,
    )
    mapped = np.loadtxt(output, delimiter=",", skiprows=1)
    distance = (moving.points_world()[0][..., None, :] - landmarks).norm(dim=-1)
    blobs = torch.exp(-((distance / 3.4) ** 2) / 2).numpy()  # one voxel wide, a frame a landmark
    nibabel.save(nibabel.Nifti1Image(blobs, matrix_of(moving)), folder / "blobs.nii.gz")
    files = [str(folder / name) for name in ("blobs.nii.gz", "fixed.nii.gz", "warped_blobs.nii.gz")]
    cli.app(["apply", transform, files[0], "--reference", files[1], "-o", files[2]], standalone_mode=False)
    warped = values(folder / "warped_blobs.nii.gz")
    voxel = np.stack(np.meshgrid(*map(np.arange, warped.shape[:3]), indexing="ij"), axis=-1)
    for k, point in enumerate(mapped):
        weight = np.where(warped[..., k] > 0.01, warped[..., k], 0)
        centroid = (voxel * weight[..., None]).sum((0, 1, 2)) / weight.sum()
        assert np.linalg.norm(centroid - point) < 0.1


def test_converted_files_are_the_same_map(folder):
    fixed = load_image(folder / "fixed.nii.gz").grid
    points = fixed.crop((4, 4, 4), (40, 50, 40)).points_world().reshape(1, -1, 3)[:, ::997]
    field = sitk.DisplacementFieldTransform(
        sitk.ReadImage(str(folder / "warp_itk.nii.gz"), sitk.sitkVectorFloat64)
    )
    flip = np.array([-1, -1, 1])
    mapped = [field.TransformPoint(point) for point in (points[0].double().numpy() * flip).tolist()]
    np.testing.assert_allclose(np.array(mapped) * flip, known()(points)[0].numpy(), atol=5e-3)
    for name in ("warp.mgz", "transform.x5", "transform.ome.zarr"):
        torch.testing.assert_close(load_transform(folder / name)(points), known()(points), atol=5e-3, rtol=0)


def test_the_jacobian_is_that_of_the_map(folder):
    """By forward differences of the known map over one voxel, as the command takes them."""
    determinant = np.exp(values(folder / "log_jacobian.nii.gz"))[INNER]
    assert determinant.min() < 0.95 < 1.05 < determinant.max()
    grid = load_image(folder / "fixed.nii.gz").grid
    voxels = grid.points_world().double()
    steps = grid.voxel_to_world[0, :3, :3].T
    map_ = load_transform(folder / "results" / "transform.h5")
    at = map_(voxels.float()).double()
    slopes = torch.stack([map_((voxels + step).float()).double() - at for step in steps], dim=-1)
    expected = torch.linalg.det(slopes)[0] / torch.linalg.det(grid.voxel_to_world[0, :3, :3])
    np.testing.assert_allclose(determinant, expected[INNER].numpy(), atol=2e-3)


def test_files_that_the_page_links_exist():
    targets = re.findall(r"\]\((?!http)([^)#]+)\)", PAGE)
    assert "images/pull_push.svg" in targets
    assert [target for target in targets if not (REPOSITORY / "docs" / target).exists()] == []
