"""The template of a cohort has its mean shape; finished registrations are kept."""

import pytest
import torch
from synthetic import AFFINES, grid_around, lopsided

from patchmorph.cluster import batch
from patchmorph.errors import PatchMorphError
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image, save_image
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.spatial.grid import Grid
from patchmorph.transforms.base import AffineTransform

SHAPES = ((0.94, 1.0, 1.06), (1.0, 1.06, 0.94), (1.06, 0.94, 1.0))
SHIFTS = ((0.0, 0.0, 0.0), (8.0, 0.0, 0.0), (0.0, -6.0, 4.0))


def scaled(factors, shift) -> Image:
    """`lopsided` on a grid of 5 mm, larger by ``factors`` and shifted by ``shift``."""
    grid = grid_around((34, 40, 32), AFFINES["RAS"] * 5)
    matrix = torch.diag(torch.tensor([*(1 / factor for factor in factors), 1.0], dtype=torch.float64))
    matrix[:3, 3] = -matrix.diagonal()[:3] * torch.tensor(shift, dtype=torch.float64)
    return Image(lopsided(Grid(grid.shape, matrix @ grid.voxel_to_world)).data, grid)


def moments(image) -> tuple[torch.Tensor, torch.Tensor]:
    """Center and standard deviations (mm, along the world axes) of the tissue."""
    values = image.normalized().values()[0, 0]
    points = image.grid.points_world()[0][values > 0.15].double()
    return points.mean(0), points.std(0)


@pytest.fixture
def cohort(tmp_path):
    for k, (shape, shift) in enumerate(zip(SHAPES, SHIFTS, strict=True)):
        save_image(scaled(shape, shift), tmp_path / f"brain{k}.nii.gz")
    return [tmp_path / f"brain{k}.nii.gz" for k in range(len(SHAPES))]


@pytest.fixture
def registered(monkeypatch, summary) -> list[str]:
    """Names of the registrations, each by moments; files of three bytes fail, those named bad are wrong."""
    names = []

    def register(request):
        names.append("/".join(request.output.parts[-3:]))
        fixed, moving = request.paths.fixed, request.paths.moving
        if moving.stat().st_size == 3:
            raise PatchMorphError("image must be whole, got three bytes")
        (center, size), (target, wanted) = moments(load_image(fixed)), moments(load_image(moving))
        ratio = torch.ones(3) if request.method.transform == "rigid" else wanted / size
        matrix = torch.diag(torch.cat([ratio.double(), torch.ones(1)]))[None]
        matrix[0, :3, 3] = target - matrix[0].diagonal()[:3] * center
        wrong = "bad" in moving.name
        if wrong:
            matrix[0, :3] *= 1.5
        found = summary("fail" if wrong else "pass")
        request.output.mkdir(parents=True, exist_ok=True)
        found.save(request.output)
        save_transform(AffineTransform(matrix), request.output / "transform.safetensors")
        return found

    monkeypatch.setattr(batch, "register_files", register)
    return names


@pytest.fixture
def command(run, tmp_path, scheduler):
    def call(images, *options) -> tuple[int, str, str]:
        return run("template", *images, "-o", tmp_path / "out", "--scheduler", scheduler, *options)

    return call


def distance(one, other) -> float:
    return float((moments(one)[1] - other).norm())


def assert_mean_shape(template, cohort) -> None:
    mean = torch.stack([moments(load_image(path))[1] for path in cohort]).mean(0)
    nearest = min(distance(load_image(path), mean) for path in cohort)
    assert distance(template, mean) < 0.25 * nearest  # 5 mm voxels of 30 mm: about 1 % of a size


def test_the_template_has_the_mean_shape_in_the_pose_of_the_first_image(
    command, registered, cohort, tmp_path
):
    code, out, _ = command(cohort, "--rounds", 1)
    assert code == 0
    assert "template.nii.gz" in out
    template = load_image(tmp_path / "out" / "template.nii.gz")
    assert_mean_shape(template, cohort)
    assert template.grid.equals(load_image(cohort[0]).grid)
    assert (moments(template)[0] - moments(load_image(cohort[0]))[0]).norm() < 1.5
    assert sorted(registered)[-3:] == [f"pairs/results/brain{k}" for k in range(3)]
    assert len(registered) == 2 + 3 + 3
    rigid = load_transform(tmp_path / "out" / "rounds" / "0" / "results" / "brain1" / "transform.safetensors")
    assert rigid(torch.eye(3)[None])[0].diff(dim=0).norm(dim=-1).allclose(torch.tensor(2.0).sqrt())
    assert (tmp_path / "out" / "pairs" / "index.html").is_file()


def test_the_transforms_in_pairs_lead_to_the_template(command, registered, cohort, tmp_path):
    command(cohort, "--rounds", 1)
    out = tmp_path / "out"
    center, size = moments(load_image(out / "template.nii.gz"))
    for k, path in enumerate(cohort):
        transform = load_transform(out / "pairs" / "results" / f"brain{k}" / "transform.safetensors")
        target, wanted = moments(load_image(path))
        found = transform((center + size).float()[None, None])[0, 0]
        assert (found - (target + wanted)).norm() < 1e-2


def test_what_is_done_is_kept_by_later_runs(command, registered, cohort, tmp_path):
    command(cohort, "--rounds", 1)
    before = (tmp_path / "out" / "template.nii.gz").read_bytes()
    registered.clear()
    assert command(cohort, "--rounds", 1)[0] == 0
    assert registered == []
    assert (tmp_path / "out" / "template.nii.gz").read_bytes() == before
    command(cohort, "--rounds", 2)
    assert {name.rsplit("/", 1)[0] for name in registered} == {"2/results", "pairs/results"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--refine", 2), "refine"),
        (("--finest", 2), "finest"),
        (("--save", "all,uncertainty"), "uncertainty"),
    ],
)
def test_what_only_deformable_maps_have_is_left_to_their_rounds(
    command, registered, cohort, monkeypatch, options, name
):
    asked, register = {}, batch.register_files

    def recorded(request):
        method = request.method
        asked.setdefault(request.output.parts[-3], (method.transform, bool(getattr(method, name))))
        return register(request)

    monkeypatch.setattr(batch, "register_files", recorded)
    assert command(cohort, "--rounds", 1, *options)[0] == 0
    assert asked == {"0": ("rigid", False), "1": ("deformable", True), "pairs": ("deformable", True)}


def test_a_start_replaces_the_rigid_round_and_gives_the_grid(command, registered, cohort, tmp_path):
    grid = grid_around((40, 42, 30), AFFINES["LPS"] * 5, (1, 2, 3))
    save_image(lopsided(grid), tmp_path / "start.nii.gz")
    assert command(cohort, "--rounds", 1, "--start", tmp_path / "start.nii.gz")[0] == 0
    template = load_image(tmp_path / "out" / "template.nii.gz")
    assert template.grid.equals(load_image(tmp_path / "start.nii.gz").grid)
    assert_mean_shape(template, cohort)
    assert len(registered) == 3 + 3


def test_sharpening_can_be_left_out(command, registered, cohort, tmp_path):
    steepness = []
    for options in ((), ("--no-sharpen",)):
        command(cohort, "--rounds", 1, *options)
        values = load_image(tmp_path / "out" / "template.nii.gz").values()
        steepness.append(float(values.diff(dim=2).square().mean()))
    assert steepness[0] > 1.1 * steepness[1]


def test_a_registration_that_fails_its_verdict_is_left_out_of_the_mean(command, registered, cohort, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    bad.write_bytes(cohort[0].read_bytes())
    start = ("--rounds", 1, "--start", cohort[1])
    assert command([*cohort, bad], *start)[0] == 1
    with_bad = load_image(tmp_path / "out" / "template.nii.gz").values()
    command(cohort, *start)
    torch.testing.assert_close(load_image(tmp_path / "out" / "template.nii.gz").values(), with_bad)


def test_images_of_one_name_are_told_apart_by_their_folders(command, registered, cohort, tmp_path):
    images = [tmp_path / name / "T1.nii.gz" for name in ("anna", "ben")]
    for source, image in zip(cohort, images, strict=False):
        image.parent.mkdir()
        image.write_bytes(source.read_bytes())
    assert command(images, "--rounds", 1)[0] == 0
    assert "pairs/results/anna_T1" in registered


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["brain0"], (), "images must be two or more, got 1"),
        (["brain0", "missing"], (), "image must be an existing one or a template, got"),
        (["brain0", "brain0"], (), "images must have different names, got"),
        (["brain0", "damaged"], (), "image must be whole, got three bytes"),
        (["brain0", "brain1"], ("--start", "{}/missing.nii.gz"), "image must be an existing one"),
        (["brain0", "brain1"], ("--start", "{}/out/template.nii.gz"), "output must be another file"),
        (["bad", "bad2"], ("--start", "{}/brain1.nii.gz"), "some registration must be better than fail"),
        (["brain0", "brain1"], ("--workers", 2), "--workers must be left out"),
    ],
)
def test_what_cannot_be_used_is_one_line(command, registered, cohort, tmp_path, names, options, message):
    (tmp_path / "out").mkdir()
    for copy in ("bad.nii.gz", "bad2.nii.gz", "out/template.nii.gz"):
        (tmp_path / copy).write_bytes(cohort[0].read_bytes())
    (tmp_path / "damaged.nii.gz").write_bytes(b"bad")
    options = [str(option).format(tmp_path) for option in options]
    code, _, error = command([tmp_path / f"{name}.nii.gz" for name in names], "--rounds", 1, *options)
    assert code == 2
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_the_networks_find_the_mean_shape(run, cohort, tmp_path):
    """Real registrations in a process of their own."""
    options = ("--rounds", 1, "--fast", "--workers", 1, "--initial-transform", "header")
    assert run("template", *cohort, "-o", tmp_path / "out", *options)[0] == 0
    assert_mean_shape(load_image(tmp_path / "out" / "template.nii.gz"), cohort)
