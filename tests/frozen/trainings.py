"""One training step: all logged terms of each chain, the loss, and the gradient's norm by network."""

import copy
import tempfile
from pathlib import Path

import numpy as np
import torch
from frozen import brains
from frozen.internals import (
    Cohort,
    Data,
    Draw,
    FlatGradients,
    Image,
    PatchMorphModel,
    Subject,
    TrainingConfig,
    add_gradients,
    chain_losses,
    save_image,
    tiny,
)
from frozen.maps import Cases, Outputs

CASES = Cases()
AUGMENTATION = {"rotation_deg": 10.0, "shift_mm": 6.0}
SEED = 8
"""Of three chains, some show one person twice and some show two."""
SWIN = {"name": "swin", "options": {"embedding": 32, "depths": [1, 1], "decoder": 8}}


def subjects(folder: Path, companions: bool) -> list[Subject]:
    """Two people on two grids; with ``companions``, each has labels, a mask and landmarks."""
    people = []
    for number, image in enumerate((brains.fixed(), brains.moving(brains.TURNED, grid="other"))):
        files = {kind: folder / f"{number}-{kind}" for kind in ("image", "labels", "mask", "landmarks")}
        paths = {kind: path.with_suffix(".nii") for kind, path in files.items()}
        paths["landmarks"] = files["landmarks"].with_suffix(".csv")
        save_image(image, paths["image"])
        labels = (image.data * 6).round().clamp(max=5).to(torch.int16)
        save_image(Image(labels, image.grid), paths["labels"])
        save_image(Image((image.data > 0.1).to(torch.uint8), image.grid), paths["mask"])
        places = np.array([[20.0, 10, 5], [-30, 20, 0], [0, -40, 20]])
        places = brains.TURNED.truth(places) if number else places
        rows = [f"{name},{x:.4f},{y:.4f},{z:.4f}" for name, (x, y, z) in zip("abc", places, strict=True)]
        paths["landmarks"].write_text("\n".join(["name,x,y,z", *rows]) + "\n")
        people.append(Subject(**(paths if companions else {"image": paths["image"]})))
    return people


def step(companions: bool = False, contrasts: bool = False, dense=None, **sections) -> Outputs:
    """A step of three chains, of which one or two show one person twice."""
    model = bolder(tiny())
    spec = model.spec.model_dump()
    if dense or sections.get("model"):
        spec |= {"dense": dense or spec["dense"]} | sections.pop("model", {})
    sections = {"augmentation": AUGMENTATION} | sections
    content = {"model": spec, "data": {"images": ["unused"]}, "run": {"output": "run"}} | sections
    config = TrainingConfig.model_validate(content)
    if dense:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = PatchMorphModel(config.model)
    drawn = Draw.sample(
        2, 3, len(config.model.spacings_mm), 0.5, torch.Generator().manual_seed(SEED), contrasts
    )
    with tempfile.TemporaryDirectory() as folder:
        cohort = Cohort(
            subjects(Path(folder), companions),
            config.model.spacings_mm,
            Data(images=["unused"]),
            torch.device("cpu"),
        )
        flat = FlatGradients(model)
        report = add_gradients(model, cohort, drawn, config)
        networks = {"affine": model.affine} | {f"dense {k}": network for k, network in enumerate(model.dense)}
        norms = {
            f"loss gradient of {name}": np.array(norm(network.parameters()))
            for name, network in networks.items()
        }
        total = float(flat.buffer.norm())
        with torch.no_grad():
            stages = list(chain_losses(model, cohort, drawn, config))
    terms = {f"loss {name}": value for _, more in stages for name, value in more.items()}
    terms |= {f"loss of stage {k}": loss for k, (loss, _) in enumerate(stages)}
    return {
        **{name: value.double().numpy() for name, value in terms.items()},
        **norms,
        "loss all": report.losses.double().numpy(),
        "loss gradient": np.array(total),
    }


def bolder(model: PatchMorphModel) -> PatchMorphModel:
    """A copy whose dense networks answer so much that maps fold, so that the penalty counts."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for network in model.dense:
            network.velocity.weight *= 12
    return model


def norm(parameters) -> float:
    return float(torch.stack([p.grad.norm() for p in parameters]).norm())


@CASES.add
def step_plain() -> Outputs:
    return step()


@CASES.add
def step_with_contrasts() -> Outputs:
    return step(contrasts=True, augmentation={**AUGMENTATION, "contrast": 1.0})


@CASES.add
def step_with_contrasts_and_labels() -> Outputs:
    return step(
        True, contrasts=True, augmentation={**AUGMENTATION, "contrast": 1.0}, objective={"overlap": 0.5}
    )


@CASES.add
def step_with_labels_masks_and_landmarks() -> Outputs:
    weights = {"overlap": 0.5, "landmarks": 0.2, "supervision": 0.3, "diffusion": 2.0, "folding": 7.0}
    return step(True, objective={**weights, "affine_weight": 0.8})


@CASES.add
def step_with_a_stopped_chain() -> Outputs:
    return step(optimization={"through_chain": False})


@CASES.add
def step_of_symmetric_networks() -> Outputs:
    return step(model={"symmetric": True})


@CASES.add
def step_of_a_transformer_by_mutual_information() -> Outputs:
    return step(dense=SWIN, objective={"similarity": "mi"})


@CASES.add
def step_by_mind() -> Outputs:
    return step(objective={"similarity": "mind"}, augmentation={**AUGMENTATION, "mirror": False})


@CASES.add
def step_by_mse() -> Outputs:
    return step(objective={"similarity": "mse"})


@CASES.add
def step_by_wider_lncc() -> Outputs:
    return step(objective={"similarity": "lncc", "similarity_options": {"radius": 2}})
