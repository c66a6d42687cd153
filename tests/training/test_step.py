from dataclasses import replace

import pytest
import torch
from tiny import CPU, UNET, all_terms, config, draw, gradient

from patchmorph.networks.blocks import set_recompute
from patchmorph.networks.model import PatchMorphModel
from patchmorph.training.config import Data
from patchmorph.training.data.cohort import Cohort
from patchmorph.training.gradients import add_gradients


def test_a_step_reaches_every_parameter_and_is_a_function_of_its_draw(model, cohort):
    report = add_gradients(model, cohort, draw(0.5), config())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    again = add_gradients(model, cohort, draw(0.5), config())
    assert torch.equal(again.losses, report.losses)
    other = add_gradients(model, cohort, draw(0.5, seed=1), config())
    assert not torch.equal(other.losses, report.losses)
    loss = report.names.index("loss")
    assert report.sums[:, loss].tolist() == pytest.approx([report.losses.sum().item(), 3])
    known = (draw(0.5, seed=1).fixed_index == draw(0.5, seed=1).moving_index).sum().item()
    assert 0 < known < 3
    assert other.sums[1, other.names.index("error_mm/1")] == known


def test_the_point_error_of_the_truth_counts_for_known_pairs_only(model, cohort):
    same = draw(1.0)
    known = all_terms(model, cohort, same, config())
    unknown = all_terms(model, cohort, replace(same, moving_index=1 - same.fixed_index), config())
    assert (known["error_mm/1"] > 1).all()
    assert unknown["error_mm/1"].isnan().all()


@pytest.mark.parametrize("symmetric", [False, True])
def test_training_lowers_the_loss(model, cohort, symmetric):
    configuration = config(model={"symmetric": symmetric})
    optimizer = torch.optim.AdamW(model.parameters(), 6e-3)
    losses = []
    for _ in range(11):  # one draw again and again: any working step can fit it
        optimizer.zero_grad()
        losses.append(add_gradients(model, cohort, draw(batch=1), configuration).losses.mean().item())
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_recomputing_a_stage_changes_nothing_but_memory(model, cohort):
    kept = gradient(model, cohort, draw(), config()).clone()
    set_recompute(model.dense, True)
    torch.testing.assert_close(gradient(model, cohort, draw(), config()), kept)


def test_a_stopped_chain_gives_the_last_stage_its_gradient_and_the_others_only_their_own(model, cohort):
    attached = config()
    stopped = config(optimization={"through_chain": False})
    through, alone = (gradient(model, cohort, draw(), c).clone() for c in (attached, stopped))
    affine, coarse = (sum(p.numel() for p in part.parameters()) for part in (model.affine, model.dense[0]))
    last = slice(affine + coarse, None)
    torch.testing.assert_close(alone[last], through[last])
    assert (alone[:affine] - through[:affine]).norm() > 0.01 * through[:affine].norm()
    losses = [all_terms(model, cohort, draw(), c)["loss"] for c in (attached, stopped)]
    torch.testing.assert_close(*losses)


def test_the_full_volume_is_a_schedule_of_one_scale(subjects):
    """One patch over everything, no affine stage: what other learned methods do, by the same code."""
    whole = config(model={"patch_size": 32, "spacings_mm": [6.0], "affine": None})
    cohort = Cohort(subjects, [6.0], Data(images=["unused"]), CPU)
    torch.manual_seed(0)
    model = PatchMorphModel(whole.model)
    drawn = draw(scales=1)
    terms = all_terms(model, cohort, drawn, whole)
    assert set(terms) == {"similarity/0", "diffusion/0", "folding/0", "error_mm/0", "loss"}
    assert gradient(model, cohort, drawn, whole).norm() > 0


@pytest.mark.parametrize(
    "dense",
    [
        UNET,
        {"name": "swin", "options": {"embedding": 32, "depths": [1, 1], "decoder": 8}},
        {"name": "torch.nn:Conv3d", "options": {"in_channels": 2, "out_channels": 3, "kernel_size": 1}},
    ],
    ids=lambda dense: dense["name"],
)
def test_the_backbone_is_one_line_of_the_configuration(cohort, dense):
    configuration = config(model={"dense": dense})
    model = PatchMorphModel(configuration.model)
    assert gradient(model, cohort, draw(), configuration)[-10:].abs().max() > 0
