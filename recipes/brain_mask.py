"""Weights of the network that finds the brain (networks/brain_mask.py), from label maps without any image.

    python recipes/brain_mask.py --maps FOLDER --output FILE.safetensors [--weights FILE] [--minutes 4]

Users give whole heads as well as stripped brains, of any contrast, in any pose, defaced or cropped. So the
network sees only images made of whole-head label maps (SynthSeg's ids, 1 mm), each with random pose, shape,
grey values, field of view and artefacts, as SynthStrip does (Hoopes et al., NeuroImage 2022), and learns to
keep brain tissue, the fluid in it and the thin fluid on its surface. Each image is one patch, framed as
registration frames it: around the content, as large as the content. The weights are written every minute and
at the end. Wants a GPU; a CPU shows that it works.
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from label_images import CSF, OUTSIDE_FROM, PARTNERS, TONES, read_ras, uniform
from torch import Tensor, nn
from torch.nn import functional

from patchmorph.images.foreground import find_content
from patchmorph.images.volume import Image
from patchmorph.io.tensors import half_precision, read_tensors, write_tensors
from patchmorph.networks.brain_mask import PATCH_SIZE, BrainMask
from patchmorph.registration.brain import RADIUS_MM, SPACING_MM
from patchmorph.spatial.grid import Grid

PATCH_SHAPE = (PATCH_SIZE, PATCH_SIZE, PATCH_SIZE)
OVERVIEW_SHAPE, OVERVIEW_MM = (64, 64, 64), 6.0
"""The image that the content is found in."""

DEEPEST_MM = 6
"""Distances from the brain's surface are known up to here."""

GAP_MM, CISTERN_MM, FLUID_MM = 3, 6, 1.5
"""The brain is its tissue, closed by a ball of the first radius, of the second where there is fluid or a
vein; and fluid so thick on its surface."""

VEIN = 514

PROBES = 4096
"""Points of each brain that say where a plane cuts it."""

RATE, WARMUP, REPORT, SAVE_SECONDS = 1.5e-3, 50, 100, 60


class Head(NamedTuple):
    """A label map.

    Attributes:
        numbers: uint8 ``[X, Y, Z]``, positions in the list of all ids; 0 is the background.
        depths: int8 of the same shape, tenths of a millimetre below the surface of the brain, at most
            ``DEEPEST_MM`` either way.
        center: the brain's centre, voxels.
        probes: points in the brain ``[PROBES, 3]``, from its centre (on the CPU).
    """

    numbers: Tensor
    depths: Tensor
    center: Tensor
    probes: Tensor


class Heads(NamedTuple):
    """All label maps, and the ids that their numbers from 1 on stand for."""

    heads: list[Head]
    ids: tuple[int, ...]


class Cut(NamedTuple):
    """What of a map lies beyond ``offset`` along ``normal`` (mm, from the brain's centre) shows ``tone``."""

    normal: list[float]
    offset: float
    tone: float


class Scene(NamedTuple):
    """All that is random about a head before it is seen through a grid.

    Attributes:
        matrix: ``[3, 3]``, world to map, about the brain's centre.
        bends: lattices ``[1, 3, n, n, n]`` of displacements over the overview, mm.
        mean, deviation: grey value of each number, and the strength of its texture.
        face, field: what is cut off the head, and where the field of view ends.
        rim_mm: how far outside its surface the brain was stripped; None for whole heads.
        dry: stripped of all fluid around the brain.
    """

    head: Head
    matrix: Tensor
    bends: list[Tensor]
    mean: Tensor
    deviation: Tensor
    csf: int
    face: Cut | None
    field: Cut | None
    rim_mm: float | None
    dry: bool


def read_heads(folder: Path, device: torch.device) -> Heads:
    maps = [read_ras(path)[0] for path in sorted(folder.glob("*.nii*"))]
    ids = tuple(sorted(set().union(*(np.unique(labels).tolist() for labels in maps)) - {0}))
    place = np.zeros(max(ids) + 1, np.uint8)
    for k, label in enumerate(ids):
        place[label] = k + 1
    return Heads([_prepared(labels, place[labels], device) for labels in maps], ids)


def _prepared(labels: np.ndarray, numbers: np.ndarray, device: torch.device) -> Head:
    seen = np.argwhere(labels > 0)
    box = tuple(slice(a, b + 1) for a, b in zip(seen.min(0), seen.max(0), strict=True))
    labels = labels[box]
    tissue = torch.from_numpy((labels > 0) & (labels < OUTSIDE_FROM) & (labels != CSF)).to(device)
    fluid, vein = (torch.from_numpy(labels == label).to(device) for label in (CSF, VEIN))
    depths = _depths(tissue, fluid, vein)
    places = tissue.nonzero().float().cpu()
    center = places.mean(0)
    probes = places[torch.randint(len(places), (PROBES,))] - center
    return Head(torch.from_numpy(numbers[box].copy()).to(device), depths, center.to(device), probes)


def _depths(tissue: Tensor, fluid: Tensor, vein: Tensor) -> Tensor:
    """Signed distance from the surface of the brain, positive in it."""
    away = _distance(tissue)
    gaps, cisterns = (_distance(away > radius) > radius for radius in (GAP_MM, CISTERN_MM))
    closed = tissue | gaps | (cisterns & (fluid | vein))
    brain = closed | (fluid & (_distance(closed) <= FLUID_MM))
    depth = torch.where(brain, _distance(~brain) - 0.5, 0.5 - _distance(brain))
    return (10 * depth.clamp(-DEEPEST_MM, DEEPEST_MM)).round().to(torch.int8).contiguous()


def _distance(mask: Tensor) -> Tensor:
    """Voxels to the nearest of the mask, true up to ``DEEPEST_MM + 1``, by parabolas along each axis."""
    reach = DEEPEST_MM + 1
    square = torch.where(mask, 0.0, 4.0 * reach**2)
    for axis in range(3):
        count, nearest = square.shape[axis], square.clone()
        for k in range(1, reach + 1):
            ahead, behind = nearest.narrow(axis, k, count - k), nearest.narrow(axis, 0, count - k)
            torch.minimum(behind, square.narrow(axis, k, count - k) + k**2, out=behind)
            torch.minimum(ahead, square.narrow(axis, 0, count - k) + k**2, out=ahead)
        square = nearest
    return square.sqrt()


def random_patch(heads: Heads) -> tuple[Tensor, Tensor]:
    """A made patch and the share of brain in each of its voxels, both ``[1, 1, N, N, N]``."""
    scene = random_scene(heads)
    device = scene.mean.device
    overview = Grid.centered(OVERVIEW_SHAPE, OVERVIEW_MM, torch.zeros(1, 3, device=device))
    grey = view(scene, overview, 1)[0]
    content = find_content(Image(grey, overview).normalized())
    # Noise above the threshold everywhere makes the content as large as the field of view.
    radius = content.radius_mm * uniform(0.88, 1.12) * (uniform(1, 1.5) if uniform(0, 1) < 0.06 else 1)
    center = content.center_world + functional.normalize(torch.randn(1, 3, device=device)) * uniform(0, 15)
    patch = Grid.centered(PATCH_SHAPE, SPACING_MM * radius / RADIUS_MM, center)
    grey, deviation, brain, seen = view(scene, patch, 2)
    texture = smooth_noise(32, device) + 0.7 * torch.randn_like(grey)
    clean = scene.rim_mm is not None or scene.face is not None or scene.field is not None
    return acquired(grey + deviation * texture, seen, clean), brain


def random_scene(heads: Heads) -> Scene:
    """Whole heads, heads without face, what a field of view cuts, and stripped brains."""
    head = heads.heads[int(torch.randint(len(heads.heads), ()))]
    device = head.center.device
    bends = []
    for points, size in ((10, uniform(1, 6)), (28, uniform(0, 1.2))):
        bends.append(size * torch.randn(1, 3, points, points, points, device=device))
    kind, rim = uniform(0, 1), None
    face = _face_cut(head) if 0.4 < kind < 0.5 else None
    field = _field_cut(head) if 0.5 < kind < 0.7 else None
    if kind > 0.7 or (field and uniform(0, 1) < 0.6):
        rim = uniform(-3, 3) if uniform(0, 1) < 0.7 else 0.0
    dry = rim is not None and rim <= 0 and uniform(0, 1) < 0.5
    mean, deviation = random_tones(heads.ids, device)
    pose, csf = _random_pose().to(device), heads.ids.index(CSF) + 1
    return Scene(head, pose, bends, mean, deviation, csf, face, field, rim, dry)


def _random_pose() -> Tensor:
    """Rotation about any axis, stretch, shear and mirroring."""
    x, y, z = functional.normalize(torch.randn(3), dim=0).tolist()
    angle = math.radians(uniform(-30, 30) if uniform(0, 1) < 0.6 else uniform(-180, 180))
    turn = angle * torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    stretch = torch.diag(torch.empty(3).uniform_(-0.15, 0.15))
    shear = torch.empty(3, 3).uniform_(-0.08, 0.08).triu(1)
    matrix = torch.linalg.matrix_exp(stretch + shear + shear.T) @ torch.linalg.matrix_exp(turn)
    return torch.diag(torch.tensor([-1.0 if uniform(0, 1) < 0.5 else 1.0, 1.0, 1.0])) @ matrix


def _face_cut(head: Head) -> Cut:
    """A plane in front of and below the brain; beyond it nothing, or one tone."""
    direction = torch.tensor([uniform(-0.4, 0.4), uniform(0.4, 1), uniform(-1, 0.1)])
    normal = functional.normalize(direction, dim=0)
    offset = float((head.probes @ normal).max()) + uniform(3, 25)
    return Cut(normal.tolist(), offset, uniform(0, 0.8) if uniform(0, 1) < 0.25 else 0.0)


def _field_cut(head: Head) -> Cut:
    """A plane that leaves out up to a third of the brain, or only some of the head."""
    normal = functional.normalize(torch.randn(3), dim=0)
    along = (head.probes @ normal).sort().values
    offset = float(along[int((1 - uniform(0, 1 / 3)) * (PROBES - 1))])
    if uniform(0, 1) < 0.3:
        offset = float(along[-1]) + uniform(0, 25)
    return Cut(normal.tolist(), offset, 0.0)


def random_tones(ids: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and texture of every number: any contrast, or near that of T1 or of T2; left and right alike."""
    tone = {label: value for value, labels in TONES.items() for label in labels}
    place = {label: k + 1 for k, label in enumerate(ids)}
    partner = torch.arange(len(ids) + 1)
    for left, right in PARTNERS:
        if left in place and right in place:
            partner[place[right]] = place[left]
    mean = torch.rand(len(ids) + 1)
    kind = uniform(0, 1)
    if kind < 0.45:
        # Brightness of fluid, grey and white matter, in this order for T1, the other way round for T2.
        levels = np.array([uniform(0.02, 0.3), uniform(0.35, 0.65), uniform(0.65, 1)])
        if kind > 0.33:
            levels = np.array([uniform(0.75, 1), uniform(0.4, 0.65), uniform(0.2, 0.45)])
        levels *= uniform(0.5, 1)  # fat may be much brighter
        for label, number in place.items():
            if label in tone:
                mean[number] = float(np.interp(tone[label] + 0.1 * torch.randn(()), (0, 1, 2), levels))
    mean = (mean[partner] + 0.02 * torch.randn(len(mean))).clamp(min=0.01)
    strongest = torch.tensor([0, *(0.06 if label < OUTSIDE_FROM else 0.14 for label in ids)])
    deviation = torch.rand(len(mean)) * strongest
    mean[0] = 0
    return mean.to(device), deviation.to(device)


def view(scene: Scene, grid: Grid, parts: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Grey value, texture, share of brain and share of what is shown, each ``[1, 1, *grid.shape]``.

    Every voxel is the mean of ``parts``³ points of the map.
    """
    points = _map_points(scene, grid.points_world()[0].movedim(-1, 0)[None])
    if parts > 1:
        points = functional.interpolate(points, scale_factor=parts, mode="trilinear", align_corners=False)
    number, depth = _looked_up(scene.head, points)
    grey, texture, brain = scene.mean[number], scene.deviation[number], depth > 0
    shown = torch.ones_like(brain)
    if scene.face:
        cut = _beyond(scene.face, points)
        grey = torch.where(cut, scene.face.tone * (number > 0), grey)
        texture = torch.where(cut, 0, texture)
        shown &= ~cut | (scene.face.tone > 0)
    if scene.rim_mm is not None:
        shown &= depth > -10 * scene.rim_mm
        brain = shown
        if scene.dry:  # the furrows stay inside the brain, the fluid on its surface does not
            shown = shown & (number != scene.csf)
            brain = shown | (brain & (depth > 10 * FLUID_MM))
    if scene.field:
        inside = ~_beyond(scene.field, points)
        shown, brain = shown & inside, brain & inside
    shares = (grey * shown, texture * shown, brain.float(), shown.float())
    grey, texture, brain, shown = (functional.avg_pool3d(share[None, None], parts) for share in shares)
    return grey, texture, brain, shown


def _map_points(scene: Scene, world: Tensor) -> Tensor:
    """Where points ``[1, 3, x, y, z]`` of the world lie in the map, mm from the brain's centre."""
    unit = (world / (OVERVIEW_SHAPE[0] * OVERVIEW_MM / 2)).movedim(1, -1).flip(-1)
    for bend in scene.bends:
        world = world + functional.grid_sample(bend, unit, padding_mode="border", align_corners=True)
    return torch.einsum("ij,bjxyz->bixyz", scene.matrix, world)


def _looked_up(head: Head, points: Tensor) -> tuple[Tensor, Tensor]:
    """Number and depth at points ``[1, 3, x, y, z]``."""
    index = (points[0] + head.center.view(3, 1, 1, 1)).round_()
    last = (torch.tensor(head.numbers.shape, device=index.device) - 1).view(3, 1, 1, 1)
    inside = ((index >= 0) & (index <= last)).all(0)
    x, y, z = index.clamp_(min=0).minimum(last).int().unbind(0)
    flat = (x * head.numbers.shape[1] + y) * head.numbers.shape[2] + z
    number = torch.where(inside, head.numbers.view(-1)[flat], 0).int()
    return number, torch.where(inside, head.depths.view(-1)[flat], -10 * DEEPEST_MM)


def _beyond(cut: Cut, points: Tensor) -> Tensor:
    x, y, z = points[0].unbind(0)
    return cut.normal[0] * x + cut.normal[1] * y + cut.normal[2] * z > cut.offset


def smooth_noise(points: int, device: torch.device) -> Tensor:
    """Normal numbers on a lattice of ``points``³ over the patch, trilinear between."""
    lattice = torch.randn(1, 1, points, points, points, device=device)
    return functional.interpolate(lattice, PATCH_SHAPE, mode="trilinear", align_corners=True)


def acquired(image: Tensor, seen: Tensor, clean: bool) -> Tensor:
    """Bias, blur, thick slices, noise and gamma; what is not seen stays black in most clean images."""
    bias = uniform(0, 0.35) * smooth_noise(int(torch.randint(3, 6, ())), image.device)
    image = image.clamp(min=0) * bias.exp()
    image = _blurred(image, uniform(0.1, 1.0))
    if uniform(0, 1) < 0.25:
        size: list[int] = [*PATCH_SHAPE]
        size[int(torch.randint(3, ()))] = round(PATCH_SIZE / uniform(1.2, 3.5))
        slices = functional.interpolate(image, size, mode="area")
        image = functional.interpolate(slices, image.shape[2:], mode="trilinear", align_corners=False)
    noise = (0.002 + 0.05 * uniform(0, 1) ** 2) * torch.randn_like(image)
    everywhere = uniform(0, 1) < (0.15 if clean else 0.5)
    image = (image + noise).abs() if everywhere else torch.where(image > 0.004, image + noise, 0)
    if clean and not everywhere:
        image = image * (seen > 0)
    return normalized(image) ** math.exp(uniform(-0.35, 0.35))


def _blurred(image: Tensor, sigma: float) -> Tensor:
    kernel = torch.exp(-torch.arange(-3, 4, device=image.device).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 7, 1, 1)
    for _ in range(3):  # each axis becomes the first in turn
        image = functional.conv3d(image, kernel, padding=(3, 0, 0)).permute(0, 1, 3, 4, 2)
    return image


def normalized(image: Tensor) -> Tensor:
    """From 0 to 1, which is the 99.8th percentile of the positive values."""
    image = image.clamp(min=0)
    above = image[image > 0]
    return (image / above.topk(max(1, round(0.002 * len(above))), sorted=False).values.min()).clamp(max=1)


def loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and soft Dice, and the mean Dice."""
    logits, target = logits.float().flatten(1), target.flatten(1)
    share = logits.sigmoid()
    dice = (2 * (share * target).sum(1) + 1) / (share.sum(1) + target.sum(1) + 1)
    entropy = functional.binary_cross_entropy_with_logits(logits, target)
    return entropy + 1 - dice.mean(), dice.mean().detach()


def train(network: BrainMask, heads: Heads, output: Path, minutes: float, batch: int) -> None:
    """For a given time, which the cosine of the learning rate follows."""
    device = heads.heads[0].center.device
    torch.backends.cudnn.benchmark = True
    network = network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    totals, step = torch.zeros(2, device=device), 0
    began = saved = time.time()
    while (done := (time.time() - began) / (60 * minutes)) < 1:
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARMUP) * fall
        made = [random_patch(heads) for _ in range(batch)]
        patches, targets = (torch.cat(part) for part in zip(*made, strict=True))
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(patches)
        value, dice = loss(logits, targets)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        totals += torch.stack([value.detach(), dice])
        step += 1
        if step % REPORT == 0:
            mean, rate = (totals / REPORT).tolist(), step / (time.time() - began)
            print(f"step {step}: loss {mean[0]:.4f}, Dice {mean[1]:.4f}, {rate:.2f} steps/s", flush=True)
            totals.zero_()
        if time.time() - saved > SAVE_SECONDS:
            save(network, output, step)
            saved = time.time()
    save(network, output, step)


def save(network: BrainMask, output: Path, steps: int) -> None:
    frame = {"patch_size": PATCH_SIZE, "spacing_mm": SPACING_MM, "radius_mm": RADIUS_MM}
    write_tensors(output, half_precision(network.state_dict()), {"brain_mask": frame, "steps": steps})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4.0)
    parser.add_argument("--batch", type=int, default=4 if device.type == "cuda" else 1)
    parser.add_argument("--weights", type=Path, help="go on from these")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    network = BrainMask()
    if arguments.weights:
        network.load_state_dict(read_tensors(arguments.weights)[0])
    train(network, read_heads(arguments.maps, device), arguments.output, arguments.minutes, arguments.batch)


if __name__ == "__main__":
    main()
