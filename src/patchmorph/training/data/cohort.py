"""The training images in memory, ready to be sampled in batches.

Every level of every image lies as bytes in a slot of a flat buffer, on the GPU while the budget lasts and in
page-locked host memory beyond. A sample reads the voxels that it needs and nothing else, so a step's memory
does not depend on the images. If not all subjects fit, slots change hands in a fixed order while training
goes on.
"""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from math import prod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from patchmorph.errors import PatchMorphError
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
LEAST_SLOTS = 2
MOST_LABELS = 2**15 - 1


class Cohort:
    """Slots that hold subjects.

    Attributes:
        subjects: all of them.
        label_count: number of labels that count.
        levels: the volumes, by spacing (mm).
        centers_world: float64 ``[S, 3]``, centres of mass of the images in the slots, RAS+ mm.
        landmarks: ``[S, K, 3]``, RAS+ mm, NaN where a subject lacks one.
        has_labels: ``[S]``, 1.0 where the subject has a label map.
        has_mask: ``[S]``, 1.0 where it has a mask.
        radius_mm: of the content of the images in the slots.
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
        """Read as many subjects as the memory in ``data`` allows: those that it holds at ``step``.

        Raises:
            PatchMorphError: files that cannot be used, or a cache that does not hold two subjects.
        """
        self.subjects = tuple(subjects)
        self.device = device
        self._every = data.refresh_every
        self._pool = ThreadPoolExecutor(data.workers)
        self._coming: dict[int, Future[Prepared]] = {}
        self._refreshed = 0
        self.vocabulary = self._agree(spacings_mm, data)
        self.label_count = len(self.vocabulary.label_ids)
        generator = torch.Generator().manual_seed(seed)
        sizes = self._sizes()
        largest = [max(column) for column in zip(*sizes, strict=True)]
        *levels, labels, mask = largest
        slots = self._slots(data, sum(levels) + torch.int16.itemsize * labels + mask)
        order = torch.randperm(len(self.subjects), generator=generator).tolist()
        self._order = order if slots < len(order) else list(range(slots))
        rooms = [[size] * slots for size in largest] if slots < len(order) else list(zip(*sizes, strict=True))
        self._reserve(rooms, data)
        self.centers_world = torch.zeros(slots, 3, dtype=torch.float64, device=device)
        self.landmarks = torch.full((slots, len(self.vocabulary.landmarks), 3), torch.nan, device=device)
        self.has_labels = torch.zeros(slots, device=device)
        self.has_mask = torch.zeros(slots, device=device)
        self.radius_mm = [0.0] * slots
        self._inside = [0] * slots
        self.advance(step)

    def __len__(self) -> int:
        return len(self._inside)

    def subject(self, slot: int) -> Subject:
        """Who is in a slot now."""
        return self.subjects[self._inside[slot]]

    def select(self, index: Int[Tensor, " b"]) -> "Selection":
        """The images in the slots ``index``, as one batched source."""
        return Selection(self, index)

    def where(self) -> str:
        """One line on how much is in memory, and where."""

        def place(volumes: PackedVolumes) -> str:
            home = "in host memory" if volumes.on_host or self.device.type == "cpu" else "on the GPU"
            return f"{volumes.buffer.nbytes / GIB:.2f} GiB {home}"

        parts = [f"{spacing:g} mm {place(volumes)}" for spacing, volumes in self.levels.items()]
        return f"{len(self)} of {len(self.subjects)} subjects in memory: {', '.join(parts)}"

    def advance(self, step: int) -> None:
        """Bring the slots to the state that belongs to ``step``; steps never go back."""
        if len(self) == len(self.subjects) and self._refreshed:
            return
        due = len(self) + (step // self._every if len(self) < len(self.subjects) else 0)
        turns = range(max(self._refreshed, due - len(self)), due)  # earlier ones have made room already
        try:
            for turn in turns:
                self._request(turn)
            for turn in turns:
                self._fill(turn)
        except BaseException:  # also when somebody asks to stop: what is not read yet need not be
            self._pool.shutdown(wait=False, cancel_futures=True)
            raise
        self._refreshed = due
        if len(self) < len(self.subjects):
            self._request(due)  # read ahead
        else:
            self._pool.shutdown()

    def _request(self, turn: int) -> None:
        if turn not in self._coming:
            subject = self.subjects[self._order[turn % len(self._order)]]
            self._coming[turn] = self._pool.submit(prepare, subject, self.vocabulary)

    def _fill(self, turn: int) -> None:
        slot, prepared = turn % len(self), self._coming.pop(turn).result()
        for volumes, level in zip(self.levels.values(), prepared.levels, strict=True):
            volumes.put(slot, level.data, level.grid)
        for volumes, image in ((self.labels, prepared.labels), (self.masks, prepared.mask)):
            if volumes is not None and image is not None:
                volumes.put(slot, image.data, image.grid)
        self.centers_world[slot] = prepared.center_world.to(self.device)
        self.landmarks[slot] = prepared.landmarks.to(self.device)
        self.has_labels[slot] = float(prepared.labels is not None)
        self.has_mask[slot] = float(prepared.mask is not None)
        self.radius_mm[slot] = prepared.radius_mm
        self._inside[slot] = self._order[turn % len(self._order)]

    def _agree(self, spacings_mm: Sequence[float], data: Data) -> Vocabulary:
        ids = data.label_ids
        if ids is None:
            ids = sorted(set().union(*self._pool.map(label_ids, self.subjects)))
        if len(ids) > MOST_LABELS or (not ids and any(subject.labels for subject in self.subjects)):
            raise PatchMorphError(f"label maps must have 1 to {MOST_LABELS} ids that count, got {len(ids)}")
        names = {name for subject in self.subjects if subject.landmarks for name in read_landmarks(subject)}
        return Vocabulary(
            tuple(spacings_mm), torch.tensor(sorted(ids), dtype=torch.int64), tuple(sorted(names))
        )

    def _sizes(self) -> list[list[int]]:
        """Voxels of every level, of the labels and of the mask of each subject."""
        spacings = self.vocabulary.spacings_mm

        def sizes(subject: Subject) -> list[int]:
            extra = [prod(load_grid(path).shape) if path else 0 for path in (subject.labels, subject.mask)]
            return [prod(shape) for shape in shapes(subject, spacings)] + extra

        return list(self._pool.map(sizes, self.subjects))

    def _slots(self, data: Data, size: int) -> int:
        slots = min(len(self.subjects), int(data.cache_gib * GIB / size))
        if slots < min(LEAST_SLOTS, len(self.subjects)):
            raise PatchMorphError(
                f"data.cache_gib must hold {LEAST_SLOTS} subjects of {size / GIB:.3g} GiB, "
                f"got {data.cache_gib:g}"
            )
        return slots

    def _reserve(self, rooms: Sequence[Sequence[int]], data: Data) -> None:
        """Buffers for all levels, coarse to fine, on the GPU while the budget lasts."""
        budget = _budget(data, self.device)
        spent = 0.0

        def reserve(capacities: Sequence[int], dtype: torch.dtype) -> PackedVolumes:
            nonlocal spent
            spent += sum(capacities) * dtype.itemsize
            return PackedVolumes(capacities, self.device, dtype, on_host=spent > budget)

        *levels, labels, masks = rooms
        self.levels = {
            spacing: reserve(capacities, torch.uint8)
            for spacing, capacities in zip(self.vocabulary.spacings_mm, levels, strict=True)
        }
        self.labels = reserve(labels, torch.int16) if any(labels) else None
        self.masks = reserve(masks, torch.uint8) if any(masks) else None


class Selection:
    """A batch of subjects of a cohort; an `ImageSource` for the cohort's spacings."""

    def __init__(self, cohort: Cohort, index: Int[Tensor, " b"]):
        self.cohort = cohort
        self.index = index

    def sample(self, points_world: Float[Tensor, "b *n 3"], spacing_mm: float) -> Float[Tensor, "b 1 *n"]:
        """Intensities from 0 to 1; zero outside."""
        return self.cohort.levels[spacing_mm].sample(self.index, points_world) / 255

    def labels(self, points_world: Float[Tensor, "b *n 3"]) -> Int[Tensor, "b 1 *n"]:
        """The nearest label's number."""
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
        """The label maps with each label's number in its color (see `PackedVolumes.painted`)."""
        assert self.cohort.labels is not None
        return self.cohort.labels.painted(self.index, points_world, colors, reach_mm)

    def mask(self, points_world: Float[Tensor, "b *n 3"]) -> Float[Tensor, "b 1 *n"] | None:
        """1.0 where the image may be trusted; ``None`` if no subject has a mask."""
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
