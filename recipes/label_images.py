"""Label maps for T1 brains that have none, from label maps of other people that have no image.

    python recipes/label_images.py --maps FOLDER --images FOLDER --output FOLDER [--minutes 7] [--networks 4]
        [--votes FOLDER]

The labels that the packaged models learned with (docs/decisions/008 and 011). Segmentation networks
see only images made of label maps: every structure gets a grey value near that of T1, then come pose, warp,
blur, bias, noise and a rough skull stripping, all at random (as SynthSeg does; Billot et al., Med Image Anal
2023). Their mean answer, or its mean with the votes of `vote_labels.py`, labels each image:
``NAME_labels.nii`` (FreeSurfer's ids) and ``manifest.csv`` for ``patchmorph train``. Maps are whole heads
with SynthSeg's ids; images are brains without skull, 1 mm. Wants a GPU.
"""

import argparse
import csv
import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 26, 28)
RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 58, 60)
CLASSES = tuple(sorted((*LEFT, *RIGHT, 14, 15, 16, 24)))
"""Ids that are told apart; class k + 1 is the k-th of them."""

CSF = 24
OUTSIDE_FROM = 500
"""Ids of a map from here on are no brain."""

PARTNERS = (*zip(LEFT, RIGHT, strict=True), (25, 57), (30, 62), (136, 163), (137, 164))
SAME_CLASS = {25: 2, 57: 41}
"""Lesions are white matter of another brightness."""

TONES: dict[float, tuple[int, ...]] = {
    0.1: (4, 43, 5, 44, 14, 15, CSF, 72),
    0.7: (30, 62),
    1.0: (3, 42, 136, 163, 137, 164),
    1.25: (8, 47),
    1.3: (18, 54, 26, 58),
    1.35: (17, 53),
    1.4: (11, 50),
    1.5: (25, 57, 85),
    1.65: (12, 51),
    2.0: (2, 41, 10, 49),
    2.2: (16, 13, 52, 7, 46),
    2.3: (28, 60),
}
"""Brightness in T1 on a scale of fluid (0), cortex (1) and white matter (2): medians of 14 training images
inside the labels of an earlier run. The middle of a head is brighter than its rim, so some structures are
above white matter."""

BOX = (160, 192, 160)
"""Voxels (1 mm, RAS) that the network sees."""

OTHERS = 8
"""Random grey values for what is no brain."""

WIDTHS = (48, 64, 96, 128, 160)
RATE, WARMUP = 1.5e-3, 50

SPREADS = (0.15, 0.1, 0.2, 0.25)
"""Standard deviation of the tones that each network sees; of fewer networks, the first ones."""


class Maps(NamedTuple):
    """Label maps, cropped to the brain and a margin.

    Attributes:
        volumes: uint8 ``[X, Y, Z]``, positions in ``tones``; from ``len(tones)`` on, what is no brain.
        centers: voxel at the brain's centre, of each.
        tones: usual brightness of every source; 0 is the background.
        classes: class of every source.
        partner: the source on the left, of every source.
        csf: the source that is fluid around the brain.
    """

    volumes: list[Tensor]
    centers: list[Tensor]
    tones: Tensor
    classes: Tensor
    partner: Tensor
    csf: int


def read_ras(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine, turned to the nearest RAS order."""
    image = nib.as_closest_canonical(nib.load(path))  # type: ignore[attr-defined]
    return np.asanyarray(image.dataobj), image.affine


def read_maps(folder: Path, device: torch.device) -> Maps:
    tone = {label: value for value, labels in TONES.items() for label in labels}
    sources = sorted(tone)
    place = {label: k + 1 for k, label in enumerate(sources)}
    classes = torch.zeros(256, dtype=torch.long)
    for label in sources:
        known = SAME_CLASS.get(label, label)
        classes[place[label]] = CLASSES.index(known) + 1 if known in CLASSES else 0
    partner = torch.arange(len(sources) + 1)
    for left, right in PARTNERS:
        partner[place[right]] = place[left]
    volumes, centers = [], []
    for path in sorted(folder.glob("*.nii*")):
        labels, _ = read_ras(path)
        numbers = np.zeros(labels.shape, np.uint8)
        for label in np.unique(labels[labels > 0]):
            numbers[labels == label] = place.get(label, len(sources) + 1 + int(label) % OTHERS)
        brain = np.argwhere((labels > 0) & (labels < OUTSIDE_FROM))
        lower = np.maximum(0, brain.min(0) - 12)
        crop = tuple(slice(a, b) for a, b in zip(lower, brain.max(0) + 13, strict=True))
        volumes.append(torch.from_numpy(numbers[crop].copy()).to(device))
        centers.append(torch.from_numpy(brain.mean(0) - lower).float().to(device))
    tones = torch.tensor([0.0, *(tone[label] for label in sources)]).to(device)
    return Maps(volumes, centers, tones, classes.to(device), partner.to(device), place[CSF])


def swapped(device: torch.device) -> Tensor:
    """The class of the other side, of every class."""
    other = torch.arange(len(CLASSES) + 1, device=device)
    for left, right in zip(LEFT, RIGHT, strict=True):
        a, b = CLASSES.index(left) + 1, CLASSES.index(right) + 1
        other[a], other[b] = b, a
    return other


def uniform(lower: float, upper: float) -> float:
    return float(torch.empty(()).uniform_(lower, upper))


def smooth_noise(points: int, channels: int, size: float, device: torch.device) -> Tensor:
    """Normal numbers on a lattice of ``points``³ over the box, trilinear between: ``[1, channels, *BOX]``."""
    lattice = size * torch.randn(1, channels, points, points, points, device=device)
    return functional.interpolate(lattice, size=BOX, mode="trilinear", align_corners=True)


def random_image(maps: Maps, spread: float) -> tuple[Tensor, Tensor]:
    """A made image ``[1, 1, *BOX]`` and the class of each of its voxels ``[1, *BOX]``.

    Args:
        spread: standard deviation of the tones.
    """
    device = maps.tones.device
    sources, mirrored = _posed(maps)
    target = maps.classes[sources]
    if mirrored:
        target = swapped(device)[target]
    image = _painted(sources, maps, spread) * _stripped(sources, maps)
    seen = functional.max_pool3d((image > 0).float()[None, None], 3, 1, 1)[0, 0] > 0
    return _acquired(image[None, None]), torch.where(seen, target, 0)[None]


def _posed(maps: Maps) -> tuple[Tensor, bool]:
    """Sources of a map in random pose, size and shape, on the box."""
    device = maps.tones.device
    pick = int(torch.randint(len(maps.volumes), ()))
    volume, center = maps.volumes[pick], maps.centers[pick]
    turn = torch.zeros(3, 3)
    turn[0, 1], turn[0, 2], turn[1, 2] = torch.empty(3).uniform_(-0.26, 0.26)
    scale = torch.diag(torch.empty(3).uniform_(-0.06, 0.06) + uniform(-0.12, 0.12))
    shear = torch.zeros(3, 3)
    shear[0, 1], shear[0, 2], shear[1, 2] = torch.empty(3).uniform_(-0.06, 0.06)
    matrix = torch.linalg.matrix_exp(turn - turn.T) @ torch.linalg.matrix_exp(scale + shear + shear.T)
    mirrored = uniform(0, 1) < 0.5
    if mirrored:
        matrix = torch.diag(torch.tensor([-1.0, 1.0, 1.0])) @ matrix
    axes = [torch.arange(n, device=device) - (n - 1) / 2 for n in BOX]
    points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1) @ matrix.T.to(device)
    bend = smooth_noise(6, 3, 2.5, device) + smooth_noise(14, 3, 0.6, device)
    points = points + bend[0].movedim(0, -1) + center + torch.empty(3, device=device).uniform_(-5, 5)
    index = points.round().long()
    last = torch.tensor(volume.shape, device=device) - 1
    inside = ((index >= 0) & (index <= last)).all(-1)
    x, y, z = index.clamp(min=0).minimum(last).unbind(-1)
    return torch.where(inside, volume[x, y, z].long(), 0), mirrored


def _painted(sources: Tensor, maps: Maps, spread: float) -> Tensor:
    """A random grey value for every source, left and right nearly alike, with some texture."""
    device, count = maps.tones.device, len(maps.tones)
    fluid, grey, white = uniform(0.03, 0.3), uniform(0.38, 0.68), uniform(0.72, 0.98)
    common, own = torch.randn(2, count, device=device)
    jitter = spread * common[maps.partner] + 0.03 * own
    tone = (maps.tones + jitter).clamp(-0.3, 2.6)
    inside = torch.where(tone < 1, fluid + (grey - fluid) * tone, grey + (white - grey) * (tone - 1))
    inside[0] = 0
    mean = torch.cat([inside, torch.empty(OTHERS, device=device).uniform_(0, 0.7)])
    deviation = 0.05 * torch.rand(len(mean), device=device)
    deviation[0] = 0
    texture = smooth_noise(24, 1, 1.0, device)[0, 0]
    return mean[sources] + deviation[sources] * (0.7 * torch.randn_like(texture) + texture)


def _stripped(sources: Tensor, maps: Maps) -> Tensor:
    """A mask as skull stripping leaves it: with or without the fluid around, and a rim of any width."""
    brain = (sources > 0) & (sources < len(maps.tones))
    choice = uniform(0, 1)
    mask = (brain if choice < 0.4 else brain & (sources != maps.csf)).float()[None, None]
    for _ in range(int(torch.randint(0, 4, ()))):
        mask = functional.max_pool3d(mask, 3, 1, 1)
    if choice > 0.5:
        mask = (functional.avg_pool3d(functional.max_pool3d(mask, 5, 1, 2), 5, 1, 2) > 0.75).float()
    return mask[0, 0]


def _acquired(image: Tensor) -> Tensor:
    """Blur, bias, noise, gain and gamma."""
    device, sigma = image.device, uniform(0.4, 1.0)
    kernel = torch.exp(-torch.arange(-2, 3, device=device).square() / (2 * sigma**2))
    for axis in range(3):
        shape, padding = [1, 1, 1, 1, 1], [0, 0, 0]
        shape[2 + axis], padding[axis] = 5, 2
        image = functional.conv3d(image, (kernel / kernel.sum()).view(shape), padding=tuple(padding))
    image = image * smooth_noise(4, 1, 0.12, device).exp()
    image = image + (image > 0.01) * torch.randn_like(image) * uniform(0.003, 0.035)
    return normalized(image.clamp(min=0)) ** math.exp(uniform(-0.25, 0.25))


def normalized(image: Tensor) -> Tensor:
    """By the 99.5th percentile of what is not dark (every 37th voxel is enough to know it)."""
    return (image / torch.quantile(image[image > 0.02 * image.max()][::37], 0.995)).clamp(0, 1.2)


def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv3d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(convolution, nn.GroupNorm(8, outputs), nn.LeakyReLU(0.1, inplace=True))


class Segmenter(nn.Module):
    """U-Net at half the resolution: eight voxels of the image are its channels, eight of the answer, too.

    It is told where each voxel lies from the centre of mass, which tells left from right.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*block(8 + 3, WIDTHS[0]), block(WIDTHS[0], WIDTHS[0]))
        pairs = list(itertools.pairwise(WIDTHS))
        self.down = nn.ModuleList(nn.Sequential(block(a, b, 2), block(b, b)) for a, b in pairs)
        self.up = nn.ModuleList(nn.Sequential(block(a + b, a), block(a, a)) for a, b in pairs[::-1])
        self.head = nn.Conv3d(WIDTHS[0], 8 * (len(CLASSES) + 1), 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits ``[B, classes, *BOX]`` of ``[B, 1, *BOX]``."""
        batch, _, *size = image.shape
        x, y, z = (n // 2 for n in size)
        eighths = (
            image.reshape(batch, x, 2, y, 2, z, 2).permute(0, 2, 4, 6, 1, 3, 5).reshape(batch, 8, x, y, z)
        )
        features = self.stem(torch.cat([eighths, functional.avg_pool3d(_from_center(image), 2)], 1))
        skips = [features]
        for layer in self.down:
            features = layer(features)
            skips.append(features)
        for layer, skip in zip(self.up, skips[-2::-1], strict=True):
            features = functional.interpolate(features, scale_factor=2, mode="nearest")
            features = layer(torch.cat([features, skip], 1))
        answer = self.head(features).reshape(batch, -1, 2, 2, 2, x, y, z)
        return answer.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, -1, *size)


def _from_center(image: Tensor) -> Tensor:
    """Distance of each voxel from the centre of mass along each axis, dm."""
    weight = image.clamp(max=0.5)
    distances = []
    for axis in (2, 3, 4):
        shape = [1, 1, 1, 1, 1]
        shape[axis] = -1
        index = torch.arange(image.shape[axis], device=image.device, dtype=torch.float32).view(shape)
        distances.append(((index - (weight * index).sum() / weight.sum()) / 100).expand_as(image))
    return torch.cat(distances, 1)


def loss(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy and soft Dice, and the mean Dice."""
    share = logits.float().softmax(1)[0].flatten(1)
    truth = target.flatten()
    size = torch.bincount(truth, minlength=len(share)).float()
    common = torch.zeros_like(size).index_add(0, truth, share.gather(0, truth[None])[0])
    dice = (2 * common + 1) / (share.sum(1) + size + 1)
    mean = dice[1:][size[1:] > 0].mean()
    return functional.cross_entropy(logits.float(), target) + 1 - mean, mean.detach()


def train(maps: Maps, minutes: float, spread: float) -> Segmenter:
    """For a given time, which the cosine of the learning rate follows."""
    device = maps.tones.device
    torch.backends.cudnn.benchmark = True
    network = Segmenter().to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=1e-4)
    began, step = time.time(), 0
    while (done := (time.time() - began) / (60 * minutes)) < 1:
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / WARMUP) * fall
        image, target = random_image(maps, spread)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(image)
        value, dice = loss(logits, target)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            print(f"step {step}: loss {float(value):.3f}, Dice {float(dice):.3f}", flush=True)
    return network.eval()


@torch.no_grad()
def shares(networks: Sequence[Segmenter], voxels: np.ndarray) -> np.ndarray:
    """The mean answer for a brain of 1 mm in RAS order and its mirror image: ``[classes + 1, X, Y, Z]``."""
    device = next(networks[0].parameters()).device
    box, source, target = _boxed(voxels.astype(np.float32))
    image = normalized(torch.from_numpy(box)[None, None].to(device))
    share = torch.zeros(1, len(CLASSES) + 1, *BOX, device=device)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        for network in networks:
            share += network(image).float().softmax(1)
            share += network(image.flip(2)).float().softmax(1).flip(2)[:, swapped(device)]
    answer = np.zeros((len(CLASSES) + 1, *voxels.shape), np.float32)
    answer[0] = 1
    answer[(slice(None), *source)] = share[0].cpu().numpy()[(slice(None), *target)] / (2 * len(networks))
    return answer


def _boxed(voxels: np.ndarray) -> tuple[np.ndarray, tuple[slice, ...], tuple[slice, ...]]:
    """A box around the centre of mass, and the same region in the volume and in the box."""
    weight = np.minimum(voxels, voxels.max() / 2)
    center = [(index * weight).sum() / weight.sum() for index in np.indices(voxels.shape, np.float32)]
    lower = [round(c - (n - 1) / 2) for c, n in zip(center, BOX, strict=True)]
    source = tuple(
        slice(max(0, a), min(size, a + n)) for a, n, size in zip(lower, BOX, voxels.shape, strict=True)
    )
    target = tuple(slice(s.start - a, s.stop - a) for s, a in zip(source, lower, strict=True))
    box = np.zeros(BOX, np.float32)
    box[target] = voxels[source]
    return box, source, target


def vote_file(folder: Path, person: str) -> Path:
    """Where `vote_labels.py` writes the votes for a person."""
    return folder / f"{person}_votes.npy"


def images_by_person(folder: Path) -> dict[str, Path]:
    """The images of a folder by the name of the person: ``NAME_T1w.nii`` is of NAME."""
    return {path.name.partition(".")[0].removesuffix("_T1w"): path for path in sorted(folder.glob("*.nii*"))}


def parser_of_folders(description: str | None) -> argparse.ArgumentParser:
    """A parser of ``--maps``, ``--images`` and ``--output``."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("--maps", "--images", "--output"):
        parser.add_argument(name, type=Path, required=True)
    return parser


def main() -> None:
    parser = parser_of_folders(__doc__)
    parser.add_argument("--minutes", type=float, default=7, help="training of each network")
    parser.add_argument("--networks", type=int, default=len(SPREADS), choices=range(1, len(SPREADS) + 1))
    parser.add_argument("--votes", type=Path, help="folder of vote_labels.py's files, which count as much")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    maps = read_maps(arguments.maps, device)
    images = images_by_person(arguments.images)
    missing = [one for one in images if arguments.votes and not vote_file(arguments.votes, one).is_file()]
    if missing:
        parser.error(f"--votes must hold NAME_votes.npy of every image, got none of {', '.join(missing)}")
    networks = [train(maps, arguments.minutes, spread) for spread in SPREADS[: arguments.networks]]
    arguments.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for person, path in images.items():
        voxels, affine = read_ras(path)
        share, name = shares(networks, voxels), f"{person}_labels.nii"
        if arguments.votes:
            share += np.load(vote_file(arguments.votes, person)) / 255
        labels = np.array([0, *CLASSES], np.uint8)[share.argmax(0)]
        nib.save(nib.Nifti1Image(labels, affine), arguments.output / name)  # type: ignore[attr-defined]
        rows.append((path.resolve(), name))
    with (arguments.output / "manifest.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "labels"), *rows])


if __name__ == "__main__":
    main()
