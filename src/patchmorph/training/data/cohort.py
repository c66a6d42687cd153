"""The training images in memory, sampled in batches.

Every level of every image is stored as bytes in a slot of a flat buffer, on the GPU up to a budget and in
page-locked host memory beyond it. Sampling reads only the voxels around its points, so the memory of a step
does not depend on the images. If not all subjects fit, the subjects in the slots are replaced in a fixed
order during training.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchmorph.errors import PatchMorphError
from patchmorph.images.abstract import AbstractImage
from patchmorph.io.images import load_grid
from patchmorph.training.config import Data
from patchmorph.training.data.packed import PackedVolumes
from patchmorph.training.data.preparation import (
    Prepared,
    Vocabulary,
    label_ids,
    prepare,
    read_landmarks,
    shapes,
)
from patchmorph.training.data.subjects import Subject

GIB = 2**30
MIN_SLOTS = 2
MAX_LABELS = 2**15 - 1


class Cohort:
    """The subjects of a training, of which a fixed number of slots holds some or all in memory.

    Attributes:
        subjects: all subjects.
        vocabulary: spacings, label ids and landmark names common to all subjects.
        label_count: number of label ids.
        levels: volumes of the images by spacing (mm).
        labels: label maps; ``None`` if no subject has one.
        masks: masks; ``None`` if no subject has one.
        centers_world: float64 ``[S, 3]``, centres of mass of the images in the slots, RAS+ mm.
        landmarks: ``[S, K, 3]``, RAS+ mm, NaN where a subject lacks one.
        has_labels: ``[S]``, 1.0 where the subject has a label map.
        has_mask: ``[S]``, 1.0 where the subject has a mask.
        radius_mm: radius of the content of the image in each slot.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        spacings_mm: Sequence[float],
        data: Data,
        device: torch.device,
        seed: int = 0,
        step: int = 0,
    ):
        """Read the subjects that the slots hold at ``step``, as many as ``data.cache_gib`` allows.

        Raises:
            PatchMorphError: files that cannot be used, or a cache too small for two subjects.
        """
        self.subjects = tuple(subjects)
        self.device = device
        self._every = data.refresh_every
        self._pool = ThreadPoolExecutor(data.workers)
        self._pending: dict[int, Future[Prepared]] = {}
        self._refreshed = 0
        self.vocabulary = self._read_vocabulary(spacings_mm, data)
        self.label_count = len(self.vocabulary.label_ids)
        generator = torch.Generator().manual_seed(seed)
        sizes = self._sizes()
        largest = [max(column) for column in zip(*sizes, strict=True)]
        *levels, labels, mask = largest
        slots = self._slots(data, sum(levels) + torch.int16.itemsize * labels + mask)
        order = torch.randperm(len(self.subjects), generator=generator).tolist()
        self._order = order if slots < len(order) else list(range(slots))
        capacities_by_kind = (
            [[size] * slots for size in largest] if slots < len(order) else list(zip(*sizes, strict=True))
        )
        self._reserve(capacities_by_kind, data)
        self.centers_world = torch.zeros(slots, 3, dtype=torch.float64, device=device)
        self.landmarks = torch.full((slots, len(self.vocabulary.landmarks), 3), torch.nan, device=device)
        self.has_labels = torch.zeros(slots, device=device)
        self.has_mask = torch.zeros(slots, device=device)
        self.radius_mm = [0.0] * slots
        self._subject_in_slot = [0] * slots
        self.advance(step)

    def __len__(self) -> int:
        return len(self._subject_in_slot)

    def subject(self, slot: int) -> Subject:
        """The subject in a slot."""
        return self.subjects[self._subject_in_slot[slot]]

    def select(self, index: Int[Tensor, " b"]) -> "Selection":
        """The images in the slots ``index``, as one batched image."""
        return Selection(self, index)

    def where(self) -> str:
        """One line of text on the subjects in memory, and on the size and place of their volumes."""

        def size(volumes: PackedVolumes) -> str:
            place = "in host memory" if volumes.on_host or self.device.type == "cpu" else "on the GPU"
            return f"{volumes.buffer.nbytes / GIB:.2f} GiB {place}"

        parts = [f"{spacing:g} mm {size(volumes)}" for spacing, volumes in self.levels.items()]
        return f"{len(self)} of {len(self.subjects)} subjects in memory: {', '.join(parts)}"

    def advance(self, step: int) -> None:
        """Bring the slots to their state at ``step``, which must not decrease between calls."""
        if len(self) == len(self.subjects) and self._refreshed:
            return
        due = len(self) + (step // self._every if len(self) < len(self.subjects) else 0)
        turns = range(max(self._refreshed, due - len(self)), due)  # earlier turns have been replaced since
        try:
            for turn in turns:
                self._request(turn)
            for turn in turns:
                self._fill(turn)
        except BaseException:  # also KeyboardInterrupt: pending reads are cancelled
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise
        self._refreshed = due
        if len(self) < len(self.subjects):
            self._request(due)  # read ahead
        else:
            self._pool.shutdown()

    def _request(self, turn: int) -> None:
        if turn not in self._pending:
            subject = self.subjects[self._order[turn % len(self._order)]]
            self._pending[turn] = self._pool.submit(prepare, subject, self.vocabulary)

    def _fill(self, turn: int) -> None:
        slot, prepared = turn % len(self), self._pending.pop(turn).result()
        for volumes, level in zip(self.levels.values(), prepared.levels, strict=True):
            volumes.put(slot, level.values(), level.grid)
        for volumes, image in ((self.labels, prepared.labels), (self.masks, prepared.mask)):
            if volumes is not None and image is not None:
                volumes.put(slot, image.values(), image.grid)
        self.centers_world[slot] = prepared.center_world.to(self.device)
        self.landmarks[slot] = prepared.landmarks.to(self.device)
        self.has_labels[slot] = float(prepared.labels is not None)
        self.has_mask[slot] = float(prepared.mask is not None)
        self.radius_mm[slot] = prepared.radius_mm
        self._subject_in_slot[slot] = self._order[turn % len(self._order)]

    def _read_vocabulary(self, spacings_mm: Sequence[float], data: Data) -> Vocabulary:
        ids = data.label_ids
        if ids is None:
            ids = sorted(set().union(*self._pool.map(label_ids, self.subjects)))
        if len(ids) > MAX_LABELS or (not ids and any(subject.labels for subject in self.subjects)):
            raise PatchMorphError(f"label maps must have 1 to {MAX_LABELS} ids that count, got {len(ids)}")
        names = {name for subject in self.subjects if subject.landmarks for name in read_landmarks(subject)}
        return Vocabulary(
            tuple(spacings_mm), torch.tensor(sorted(ids), dtype=torch.int64), tuple(sorted(names))
        )

    def _sizes(self) -> list[list[int]]:
        """Numbers of voxels of every level, of the labels and of the mask, for each subject."""
        spacings = self.vocabulary.spacings_mm

        def sizes(subject: Subject) -> list[int]:
            extra = [prod(load_grid(path).shape) if path else 0 for path in (subject.labels, subject.mask)]
            return [prod(shape) for shape in shapes(subject, spacings)] + extra

        return list(self._pool.map(sizes, self.subjects))

    def _slots(self, data: Data, size: int) -> int:
        slots = min(len(self.subjects), int(data.cache_gib * GIB / size))
        if slots < min(MIN_SLOTS, len(self.subjects)):
            raise PatchMorphError(
                f"data.cache_gib must hold {MIN_SLOTS} subjects of {size / GIB:.3g} GiB, "
                f"got {data.cache_gib:g}"
            )
        return slots

    def _reserve(self, capacities_by_kind: Sequence[Sequence[int]], data: Data) -> None:
        """Allocate the buffers of all levels, coarse to fine, on the GPU up to the budget."""
        budget = _budget(data, self.device)
        spent = 0.0

        def reserve(capacities: Sequence[int], dtype: torch.dtype) -> PackedVolumes:
            nonlocal spent
            spent += sum(capacities) * dtype.itemsize
            return PackedVolumes(capacities, self.device, dtype, on_host=spent > budget)

        *levels, labels, masks = capacities_by_kind
        self.levels = {
            spacing: reserve(capacities, torch.uint8)
            for spacing, capacities in zip(self.vocabulary.spacings_mm, levels, strict=True)
        }
        self.labels = reserve(labels, torch.int16) if any(labels) else None
        self.masks = reserve(masks, torch.uint8) if any(masks) else None


class Selection(AbstractImage):
    """A batch of images of a cohort; ``sample`` accepts only the cohort's spacings."""

    def __init__(self, cohort: Cohort, index: Int[Tensor, " b"]):
        self.cohort = cohort
        self.index = index

    def sample(self, points_world: Float[Tensor, "b *n 3"], spacing_mm: float) -> Float[Tensor, "b 1 *n"]:
        """Intensities from 0 to 1, trilinear; zero outside."""
        return self.cohort.levels[spacing_mm].sample(self.index, points_world) / 255

    def labels(self, points_world: Float[Tensor, "b *n 3"]) -> Int[Tensor, "b 1 *n"]:
        """The number of the nearest voxel's label; zero outside."""
        assert self.cohort.labels is not None
        return self.cohort.labels.nearest(self.index, points_world)

    def label_corners(
        self, points_world: Float[Tensor, "b *n 3"]
    ) -> tuple[Int[Tensor, "b 8 m"], Float[Tensor, "b 8 m"]]:
        """The labels of the eight voxels around each point, with their trilinear weights."""
        assert self.cohort.labels is not None
        return self.cohort.labels.corners(self.index, points_world)

    def painted(
        self, points_world: Float[Tensor, "b *n 3"], colors: Float[Tensor, "b c"], reach_mm: float
    ) -> Float[Tensor, "b 1 *n"]:
        """The label maps with each label number replaced by its color (see `PackedVolumes.painted`)."""
        assert self.cohort.labels is not None
        return self.cohort.labels.painted(self.index, points_world, colors, reach_mm)

    def mask(self, points_world: Float[Tensor, "b *n 3"]) -> Float[Tensor, "b 1 *n"] | None:
        """1.0 inside the mask, and everywhere for an image without one; ``None`` if no subject has a mask."""
        masks = self.cohort.masks
        if masks is None:
            return None
        inside = (masks.nearest(self.index, points_world) > 0).float()
        given = self.cohort.has_mask[self.index].reshape(-1, *(1 for _ in inside.shape[1:]))
        return torch.where(given > 0, inside, 1.0)


def _budget(data: Data, device: torch.device) -> float:
    if device.type != "cuda":
        return float("inf")
    if data.memory_budget_gib is None:
        return torch.cuda.mem_get_info(device)[0] / 2
    return data.memory_budget_gib * GIB
