"""A whole chain of stages by hand: networks that give a fixed answer, so every map and loss is known."""

from dataclasses import replace

import pytest
import torch
from tiny import CPU, EXACT, SPACINGS, STILL, all_terms, config, still_draw
from torch import nn
from torch.nn import functional

from patchmorph.images.volume import Image
from patchmorph.io.images import save_image
from patchmorph.networks.model import PatchMorphModel
from patchmorph.training.config import Data
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.step import chain_losses

LANDMARKS = ((15.0, 10, 1), (-30.0, -10, 4))
"""On either side of the middle of an image, mm."""


class Looks(nn.Module):
    """An affine network with other generators at each of three looks, scaled by what it sees."""

    def __init__(self):
        super().__init__()
        self.generators = nn.Parameter(
            0.02 * torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(2))
        )
        self.calls = 0

    def forward(self, pair):
        seen = 1 + pair.mean((1, 2, 3, 4))[:, None, None]
        rows = functional.pad(self.generators[self.calls] * seen, (0, 0, 0, 1))
        self.calls += 1
        return rows


class Answer(nn.Module):
    """A network that always answers the same: generators, or velocities ``constant + slope · x``."""

    def __init__(self, answer: torch.Tensor):
        super().__init__()
        self.answer = nn.Parameter(answer)

    def forward(self, pair):
        return self.answer.expand(len(pair), *self.answer.shape[1:])


def quarter_turn() -> Answer:
    """90° about z, x towards y."""
    generator = torch.zeros(1, 4, 4)
    generator[0, 0, 1], generator[0, 1, 0] = -torch.pi / 2, torch.pi / 2
    return Answer(generator)


def nothing(*shape: int) -> Answer:
    return Answer(torch.zeros(1, *shape))


def flow(x=0.0, y=0.0, z=0.0, slope=0.0) -> Answer:
    """A constant velocity (patch voxels), plus one along x that grows along x."""
    velocity = torch.tensor([x, y, z]).reshape(1, 3, 1, 1, 1).repeat(1, 1, 8, 8, 8)
    velocity[:, 0] += slope * (2 * torch.arange(8.0) - 7)[:, None, None]
    return Answer(velocity)


def model_of(affine, *dense) -> PatchMorphModel:
    model = PatchMorphModel(config().model)
    model.affine = affine
    model.dense = nn.ModuleList(dense)
    return model


def still_model() -> PatchMorphModel:
    return model_of(nothing(4, 4), flow(), flow())


@pytest.fixture(scope="module")
def landmarked(subjects, tmp_path_factory) -> Cohort:
    """Both subjects with two landmarks, at `LANDMARKS` from their centres."""
    folder = tmp_path_factory.mktemp("landmarked")
    files = []
    for number, subject in enumerate(subjects):
        (folder / f"{number}.csv").write_text("name,x,y,z\na,0,0,0\nb,0,0,0\n")
        files.append(replace(subject, landmarks=folder / f"{number}.csv"))
    cohort = Cohort(files, SPACINGS, Data(images=["unused"]), CPU)
    cohort.landmarks.copy_(cohort.centers_world[:, None] + torch.tensor(LANDMARKS))
    return cohort


def test_no_gradient_flows_from_an_affine_look_into_the_one_before(cohort):
    """Neither through the map nor through what the network sees: more looks leave the first one's alone."""
    drawn = still_draw(batch=2, affine=0.3 * torch.ones(2, 2, 13))
    gradients = {}
    for looks in (1, 3):
        network = Looks()
        asked = config(optimization={"affine_passes": looks}, objective={"affine_weight": 0.7})
        loss, _ = next(chain_losses(model_of(network, flow(), flow()), cohort, drawn, asked))
        loss.mean().backward()
        assert network.calls == looks
        gradients[looks] = network.generators.grad
    assert (gradients[3].flatten(1).norm(dim=1) > 1e-3).all()
    torch.testing.assert_close(gradients[3][0], gradients[1][0])


def test_every_affine_look_goes_on_from_the_one_before(cohort):
    """Looks of a few degrees each add up: the error grows with the number of looks."""
    generator = torch.zeros(1, 4, 4)
    generator[0, :3, 3] = torch.tensor([0.5, 0.0, 0.0])  # patch voxels of 12 mm: 6 mm a look
    errors = []
    for looks in (1, 2, 3):
        asked = config(optimization={"affine_passes": looks}, augmentation=STILL.model_dump(), pairs=EXACT)
        model = model_of(Answer(generator), flow(), flow())
        errors.append(all_terms(model, cohort, still_draw(), asked)["error_mm/affine"].item())
    # Huber distance beyond 2 mm: the distance less 1 mm; foreground points all move alike.
    assert errors == pytest.approx([5.0, 11.0, 17.0], abs=1e-2)


@pytest.mark.parametrize("same", [True, False])
def test_the_affine_loss_is_the_weighted_sum_over_looks_and_only_a_known_truth_counts(cohort, same):
    drawn = still_draw(batch=2, start=torch.ones(2, 3), fixed_index=torch.tensor([0, 1]))
    drawn = replace(drawn, moving_index=drawn.fixed_index if same else 1 - drawn.fixed_index)
    asked = config(
        optimization={"affine_passes": 4},
        objective={"affine_weight": 0.7, "supervision": 0.3},
        augmentation=STILL.model_dump(),
        pairs={**EXACT, "start_mm": 5.0},
    )
    loss, terms = next(chain_losses(still_model(), cohort, drawn, asked))
    expected = 0.7 * terms["similarity/affine"]
    assert (terms["similarity/affine"] > 0.01).all()
    if same:
        # The start is off by 5 mm along each axis; the Huber distance is 1 mm less.
        error = torch.full((2,), 5 * 3**0.5 - 1)
        torch.testing.assert_close(terms["error_mm/affine"], error, atol=1e-2, rtol=0)
        expected = expected + 0.3 * error
    else:
        assert terms["error_mm/affine"].isnan().all()
    # A network that moves nothing leaves the same loss at each of the four looks.
    torch.testing.assert_close(loss, 4 * expected, atol=0.02, rtol=0)


def test_the_start_brings_centre_onto_centre(cohort):
    """Two views of one person that differ by shifts alone: the start is the truth, whichever is which."""
    affine = torch.zeros(2, 2, 13)
    affine[:, 0, 10:], affine[:, 1, 10:] = torch.tensor([1.0, -0.5, 0.2]), torch.tensor([-0.4, 0.6, 1.0])
    asked = config(augmentation={**STILL.model_dump(), "shift_mm": 30.0}, pairs=EXACT)
    terms = all_terms(still_model(), cohort, still_draw(batch=2, affine=affine), asked)
    for name in ("error_mm/affine", "error_mm/0", "error_mm/1"):
        assert terms[name].max() < 0.01


def test_stages_are_composed_on_the_inner_side_of_the_map(landmarked):
    """φ = shift ∘ turn ∘ flow₀ ∘ flow₁: the turn of the affine stage turns what later stages add."""
    drawn = still_draw(fixed_index=torch.tensor([0]), moving_index=torch.tensor([1]))
    asked = config(
        augmentation=STILL.model_dump(),
        pairs=EXACT,
        objective={"landmarks": 1.0},
        optimization={"affine_passes": 1},
    )
    model = model_of(quarter_turn(), flow(x=1.0), flow(y=1.0))
    fixed, moving = landmarked.centers_world[:2].float()
    saved = landmarked.landmarks.clone()
    # Patch voxels are 12 and 6 mm. After the first dense stage the centre goes along R (12, 0, 0), after the
    # second along R (12, 6, 0), where R turns x to y and y to −x.
    for stage, step in ((0, (0.0, 12, 0)), (1, (-6.0, 12, 0))):
        landmarked.landmarks[0, 0], landmarked.landmarks[1, 0] = fixed, moving + torch.tensor(step)
        landmarked.landmarks[:, 1] = torch.nan
        terms = all_terms(model, landmarked, drawn, asked)
        assert terms[f"landmarks/{stage}"].item() < 0.01
        assert terms[f"landmarks/{1 - stage}"].item() == pytest.approx(6 - 1, abs=0.05)  # Huber
    landmarked.landmarks.copy_(saved)


def test_regularity_is_that_of_the_whole_map_without_its_affine_part_in_mm(cohort):
    """Velocities that grow along x by 6 and 4 % a voxel stretch by e^0.06 and, in all, by e^0.10.

    The energy is a mean over the three components, of which one has a gradient. Of its 15 steps across the
    patch the first and the last are half as large, as velocities stand half a voxel further in: 0.9 is left.
    """
    asked = config(augmentation=STILL.model_dump(), pairs=EXACT, optimization={"affine_passes": 1})
    terms = all_terms(
        model_of(quarter_turn(), flow(slope=0.06), flow(slope=0.04)), cohort, still_draw(), asked
    )
    for scale, slope in ((0, 0.06), (1, 0.10)):
        expected = 0.9 * (torch.e**slope - 1) ** 2 / 3
        # The flow also slows down beyond that border: a few per cent.
        assert terms[f"diffusion/{scale}"].item() == pytest.approx(expected, rel=0.1)
    assert terms["folding/0"].item() == 0


def test_regularity_does_not_pull_on_the_affine_network(cohort):
    """Diffusion, volume and folding leave the affine part out, so their gradient there is rounding."""
    affine = quarter_turn()
    model = model_of(affine, flow(slope=-1.2), flow(slope=-1.2))  # folds, and bends
    gradients = []
    for weight in (0.0, 1.0):
        model.zero_grad()
        asked = config(
            augmentation=STILL.model_dump(),
            pairs=EXACT,
            objective={"diffusion": weight, "volume": weight, "folding": weight},
            optimization={"affine_passes": 1},
        )
        stages = list(chain_losses(model, cohort, still_draw(), asked))
        torch.stack([loss for loss, _ in stages]).sum().backward()
        gradients.append((affine.answer.grad.clone(), model.dense[0].answer.grad.clone()))
    (affine_without, dense_without), (affine_with, dense_with) = gradients
    assert (dense_with - dense_without).norm() > 1e-2
    torch.testing.assert_close(affine_with, affine_without, atol=1e-4, rtol=1e-4)


def test_folds_are_punished_by_how_much_they_lack(cohort):
    """Two flows that shrink x to e^-2 of its length leave a determinant of 0.135 of the 0.3 asked for."""
    asked = config(augmentation=STILL.model_dump(), pairs=EXACT)
    model = model_of(nothing(4, 4), flow(slope=-1.0), flow(slope=-1.0))
    terms = all_terms(model, cohort, still_draw(), asked)
    assert terms["folding/0"].item() == 0  # e^-1 is 0.37
    assert terms["folding/1"].item() == pytest.approx(0.3 - torch.e**-2, rel=0.2)


def test_the_loss_of_a_dense_stage_is_the_weighted_sum_of_its_terms(landmarked):
    weights = {"diffusion": 0.9, "volume": 0.6, "folding": 3.0, "landmarks": 0.4}
    others = {"supervision": 0.25, "affine_weight": 0.0}
    asked = config(objective=weights | others, augmentation={"shift_mm": 5.0})
    drawn = replace(
        still_draw(batch=2, start=torch.ones(2, 3)),
        fixed_index=torch.tensor([0, 0]),
        moving_index=torch.tensor([0, 1]),
    )
    stages = list(
        chain_losses(model_of(nothing(4, 4), flow(slope=-1.5), flow(x=0.5)), landmarked, drawn, asked)
    )
    assert len(stages) == 3
    for scale, (loss, terms) in enumerate(stages[1:]):
        assert set(terms) == {f"{name}/{scale}" for name in ("similarity", *weights, "error_mm")}
        error = terms[f"error_mm/{scale}"]
        assert error.isnan().tolist() == [False, True]
        expected = terms[f"similarity/{scale}"] + 0.25 * error.nan_to_num()
        for name in weights:
            assert terms[f"{name}/{scale}"].max() > 0
            expected = expected + weights[name] * terms[f"{name}/{scale}"]
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("through", [True, False])
def test_a_stage_teaches_itself_and_the_ones_before_it_only_if_asked(model, cohort, through):
    networks = (model.affine, *model.dense)
    drawn = still_draw(batch=2, affine=0.3 * torch.ones(2, 2, 13), start=torch.ones(2, 3))
    stages = chain_losses(model, cohort, drawn, config(optimization={"through_chain": through}))
    for stage, (loss, _) in enumerate(stages):
        for number, network in enumerate(networks):
            gradients = torch.autograd.grad(
                loss.mean(), list(network.parameters()), allow_unused=True, retain_graph=True
            )
            taught = any(g is not None and g.abs().max() > 0 for g in gradients)
            assert taught == (number == stage or (through and number < stage)), (stage, number)


@pytest.mark.parametrize(("root", "counts"), [(0.0, True), (1.0, False), (-1.0, True)])
def test_the_coarsest_patch_is_shifted_by_the_root(landmarked, root, counts):
    """A shift of 115 mm along x leaves a landmark on one side of the middle inside, the other outside.

    The patch reaches 90 mm each way from its middle; the landmarks are 15 mm right and 30 mm left of that
    of the image.
    """
    shift = torch.tensor([[root, 0.0, 0.0]])
    asked = config(
        augmentation=STILL.model_dump(),
        pairs={"start_mm": 10.0, "root_mm": 115.0},
        objective={"landmarks": 1.0},
    )
    drawn = still_draw(root=shift, start=torch.tensor([[0.0, 1.0, 0.0]]))
    error = all_terms(still_model(), landmarked, drawn, asked)["landmarks/0"].item()
    assert error == pytest.approx(10 - 1 if counts else 0, abs=0.01)  # Huber


@pytest.mark.parametrize(("inward", "counts"), [(0.0, True), (0.5, True), (1.0, False)])
def test_the_first_child_uses_its_share_of_the_freedom(landmarked, inward, counts):
    """At full freedom a child in the upper corner starts 3 mm beyond the middle: no landmark is inside."""
    asked = config(
        augmentation=STILL.model_dump(),
        pairs={"start_mm": 10.0, "root_mm": 0.0, "inward": inward},
        objective={"landmarks": 1.0},
    )
    drawn = still_draw(placement=torch.ones(1, 1, 3), start=torch.tensor([[0.0, 1.0, 0.0]]))
    error = all_terms(still_model(), landmarked, drawn, asked)["landmarks/1"].item()
    assert error == pytest.approx(10 - 1 if counts else 0, abs=0.01)


def test_overlap_counts_where_both_subjects_have_labels(images, subjects, tmp_path):
    save_image(Image((images[0].data * 3).to(torch.int16), images[0].grid), tmp_path / "labels.nii")
    files = [replace(subjects[0], labels=tmp_path / "labels.nii"), subjects[1]]
    cohort = Cohort(files, SPACINGS, Data(images=["unused"]), CPU)
    drawn = still_draw(
        batch=4, fixed_index=torch.tensor([0, 0, 1, 1]), moving_index=torch.tensor([0, 1, 0, 1])
    )
    asked = config(augmentation=STILL.model_dump(), pairs=EXACT, objective={"overlap": 2.0})
    stages = list(chain_losses(still_model(), cohort, drawn, asked))
    for scale, (loss, terms) in enumerate(stages[1:]):
        overlap = terms[f"overlap/{scale}"]
        assert overlap[0] > 0
        assert overlap[1:].tolist() == [0, 0, 0]
        others = terms[f"similarity/{scale}"] + 0.1 * terms[f"error_mm/{scale}"].nan_to_num()
        torch.testing.assert_close(loss, others + 2 * overlap)
