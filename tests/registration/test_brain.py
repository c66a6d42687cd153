"""What is left out before images are registered."""

import functools

import pytest
import torch
from synthetic import AFFINES, grid_around
from torch import nn

from patchmorph import catalogue
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.metrics import dice
from patchmorph.images.foreground import find_content, find_truncated_faces
from patchmorph.images.volume import Image
from patchmorph.io.images import load_image
from patchmorph.networks.brain_mask import PATCH_SIZE, BrainMask
from patchmorph.registration.brain import MARGIN, find_brain
from patchmorph.registration.preparation import Selection, prepare_image
from patchmorph.spatial.grid import Grid

BRAIN, HEAD = 60.0, 85.0
ONE_GRID = pytest.mark.parametrize("head", ["oblique"], indirect=True)
"""For what does not depend on the orientation of the head."""


@functools.cache
def squared_radii(size: int) -> torch.Tensor:
    """Of the voxels of a patch, 1 at the middles of its faces."""
    axis = torch.linspace(-1, 1, size)
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x**2 + y**2 + z**2


class InTheMiddle(nn.Module):
    """Stands for a network: predicts a ball in the middle of the patch with a given logit."""

    def __init__(self, fraction: float, logit: float = 8.0):
        super().__init__()
        self.fraction, self.logit = fraction, logit

    def forward(self, patch):
        inside = squared_radii(patch.shape[-1]) < self.fraction**2
        return torch.where(inside, self.logit, -8.0).expand_as(patch)


class InTurn(nn.Module):
    """Stands for a network: each call is answered by the next of some networks."""

    def __init__(self, *networks: nn.Module):
        super().__init__()
        self.left = list(networks)

    def forward(self, patch):
        return self.left.pop(0)(patch)


def ball(radius: float, grid: Grid) -> torch.Tensor:
    return (grid.points_world().norm(dim=-1) < radius)[:, None].float()


@pytest.fixture(params=["RAS", "LIA", "oblique"])
def head(request) -> Image:
    """A bright ball in a darker one."""
    grid = grid_around((64, 64, 64), AFFINES[request.param] * 3.0)
    return Image(0.4 * ball(HEAD, grid) + 0.5 * ball(BRAIN, grid), grid, "head")


def half_side(image: Image) -> float:
    """Of the patch that the network gets, mm."""
    return PATCH_SIZE / 2 * 2.75 * find_content(image.normalized()).radius_mm / 85


def test_the_brain_is_kept_and_the_rest_left_out(head):
    network = InTheMiddle(BRAIN / half_side(head))
    prepared = prepare_image(head, Selection(), network)
    radius = BRAIN + MARGIN * 2 * half_side(head) / PATCH_SIZE
    brain = ball(radius, head.grid) > 0
    # A voxel of the patch is 2 mm, one of the image 3 mm.
    assert dice((prepared.image.values() > 0).int(), brain.int(), [1])[1] > 0.95
    assert prepared.content.radius_mm == pytest.approx(radius * 0.6**0.5, rel=0.05)  # of a ball
    assert "head" in " ".join(prepared.notes)


def found(network: nn.Module, head: Image) -> Image | None:
    image = head.normalized()
    return find_brain(network, image, find_content(image))


@ONE_GRID
@pytest.mark.parametrize(
    ("kept", "logit", "is_brain"),
    [
        (0.09, 8.0, False),  # of the content: at least 0.12
        (0.16, 8.0, True),
        (0.68, 8.0, True),
        (0.85, 8.0, False),  # at most 0.75
        (0.4, 1.39, False),  # a mean probability of 0.8: at least 0.85
        (0.4, 2.20, True),  # 0.9
    ],
)
def test_a_prediction_is_used_if_it_is_a_brain_in_a_head_and_confident(head, kept, logit, is_brain):
    network = InTheMiddle(HEAD * kept ** (1 / 3) / half_side(head), logit)
    assert ("the brain was found" in " ".join(prepare_image(head, Selection(), network).notes)) is is_brain


@ONE_GRID
def test_one_intensity_remap_whose_mask_keeps_nearly_all_is_enough_to_reject(head):
    """The mean of all predictions keeps too little to reject."""

    assert found(InTheMiddle(0.55), head) is not None
    assert found(InTurn(*[InTheMiddle(0.55)] * 3, InTheMiddle(1.0)), head) is None


@ONE_GRID
def test_a_brain_that_the_first_remap_shows_is_not_looked_for_in_the_others(head):
    brain = InTurn(InTheMiddle(1.0), *[InTheMiddle(0.55)] * 3)
    assert found(brain, head) is None
    assert len(brain.left) == 3
    searched = InTurn(*[InTheMiddle(0.55)] * 4)
    assert found(searched, head) is not None
    assert not searched.left


@ONE_GRID
@pytest.mark.parametrize("remap", range(4))
def test_the_mask_is_that_of_the_mean_over_intensity_remaps(head, remap):
    """A prediction from one remap of four is outvoted; predictions from the other three outvote one."""

    def alone(fraction: float, others: float) -> nn.Module:
        return InTurn(*(InTheMiddle(fraction if k == remap else others) for k in range(4)))

    expected = found(InTheMiddle(0.5), head)
    mask = found(alone(0.6, 0.5), head)
    assert expected is not None
    assert mask is not None
    assert ((mask.data > 0.5) == (expected.data > 0.5)).all()
    assert found(alone(0.6, 0.0), head) is None


def test_the_largest_part_is_the_brain_and_its_holes_are_filled(head):
    class Patchy(nn.Module):
        def forward(self, patch):
            answer = InTheMiddle(0.55)(patch).clone()
            middle = PATCH_SIZE // 2
            answer[..., middle - 3 : middle + 3, middle - 3 : middle + 3, middle - 3 : middle + 3] = -8.0
            answer[..., :4, :4, :4] = 8.0
            return answer

    mask = found(Patchy(), head)
    assert mask is not None
    center, corner = mask.grid.center_world.float(), mask.grid.points_world()[0, 1, 1, 1][None]
    values = mask.sample(torch.stack([center, corner], dim=1), 1.0)
    assert values[0, 0, 1] == 0
    solid = found(InTheMiddle(0.55), head)
    assert ((mask.data > 0) == (solid.data > 0)).all()


@ONE_GRID
@pytest.mark.parametrize(("radius_mm", "is_head"), [(9.0, False), (11.0, True)])
def test_small_animals_are_no_heads(head, radius_mm, is_head):
    matrix = head.grid.voxel_to_world.clone()
    matrix[:, :3] *= radius_mm / find_content(head.normalized()).radius_mm
    small = Image(head.data, Grid(head.grid.shape, matrix))
    network = InTheMiddle(BRAIN / half_side(head))
    assert (found(network, small) is not None) is is_head


def test_a_mask_on_another_grid_is_taken_as_it_is(head):
    coarse = grid_around((50, 50, 50), AFFINES["LPS"] * 4.0)
    prepared = prepare_image(head, Selection(Image(7 * ball(BRAIN, coarse), coarse)), InTheMiddle(0.1))
    assert dice((prepared.image.values() > 0).int(), (ball(BRAIN, head.grid) > 0).int(), [1])[1] > 0.95
    assert "mask" in " ".join(prepared.notes)
    with pytest.raises(PatchMorphError, match="mask must keep some of the image"):
        prepare_image(head, Selection(Image(torch.zeros(1, 1, 50, 50, 50), coarse)))


def test_a_field_of_view_that_cuts_through_the_head_is_noted(head):
    assert find_truncated_faces(head.normalized()) == ()
    part = head.grid.crop((0, 0, 20), (64, 64, 44))
    cropped = Image(head.data[..., 20:], part, "part")
    prepared = prepare_image(cropped)
    assert prepared.image.truncated_faces == ((2, 0),)
    assert "field of view cuts" in " ".join(prepared.notes)
    normal = prepared.image.truncation_normals()[0]
    torch.testing.assert_close(normal, -head.grid.voxel_to_world[0, :3, 2] / 3)
    beyond = part.points_world()[:, 0, 0, :1] + 4 * normal.float()
    visible = prepared.image.in_field_of_view(torch.cat([beyond, beyond - 8 * normal.float()], dim=1))
    assert visible is not None
    assert visible.tolist() == [[False, True]]


def test_the_network_keeps_its_size_and_answers_in_any_precision():
    network = BrainMask()
    assert sum(parameter.numel() for parameter in network.parameters()) < 2.5e6
    with torch.no_grad():
        answer = network(torch.rand(1, 1, 32, 48, 32))
    assert answer.shape == (1, 1, 32, 48, 32)
    assert torch.isfinite(answer).all()


@pytest.mark.slow  # a synthetic head goes through the same network in tests/frozen
def test_the_packaged_network_strips_heads_and_leaves_brains(data):
    network = catalogue.load_brain_mask(torch.device("cpu"))
    head, brain = (load_image(data / kind / "sub-04_T1w.nii.gz") for kind in ("t1-whole-head", "t1-labelled"))
    assert prepare_image(brain, Selection(), network).notes == ()
    prepared = prepare_image(head, Selection(), network)
    assert "the brain was found" in " ".join(prepared.notes)
    points = brain.grid.points_world()[:, ::3, ::3, ::3]
    ours = (prepared.image.sample(points, 1.0) > 0).int()
    theirs = (brain.sample(points, 1.0) > 0).int()
    assert dice(ours, theirs, [1])[1] > 0.9  # one method of stripping against another
