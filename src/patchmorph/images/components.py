"""Connected components of boolean volumes: runs along the last axis are joined across neighbouring lines.

Each set of runs is a tree of parents. A root is joined to the lowest root that it touches, and paths are
compressed, until no edge joins two trees (Shiloach and Vishkin, J. Algorithms 3, 1982): a few passes over
arrays, whatever the shape of the components is.
"""

import numpy as np
from jaxtyping import Bool, Int

FACES = ((0, 1), (1, 0))
"""Steps to half of the neighbouring lines at which voxels share a face; the others are their opposites."""
CORNERS = ((0, 1), (1, -1), (1, 0), (1, 1))
"""Those at which they share a face, an edge or a corner."""


def connected_components(
    mask: Bool[np.ndarray, "x y z"], diagonal: bool = False
) -> tuple[Int[np.ndarray, "x y z"], int]:
    """Number of each voxel's component, 0 outside ``mask``, in the order of first voxels; how many there are.

    Args:
        mask: the volume.
        diagonal: whether voxels that share an edge or a corner are connected, too.
    """
    apart = np.pad(mask, ((0, 0), (0, 1), (0, 1)))  # no run continues in the next line
    starts, ends = np.flatnonzero(np.diff(apart.ravel(), prepend=False, append=False)).reshape(-1, 2).T
    lines = (x * apart[0].size + y * apart.shape[2] for x, y in (CORNERS if diagonal else FACES))
    edges = [_touching(starts, ends, line, int(diagonal)) for line in lines]
    roots = _roots(len(starts), np.concatenate(edges, axis=1))
    is_root = roots == np.arange(len(roots))
    numbers = np.cumsum(is_root, dtype=np.int32)
    pieces = np.zeros(mask.shape, np.int32)
    pieces[mask] = np.repeat(numbers[roots], ends - starts)
    return pieces, int(is_root.sum())


def on_faces(pieces: Int[np.ndarray, "x y z"], count: int) -> Bool[np.ndarray, " n"]:
    """Whether each of ``count`` components reaches a face of the array, after an entry for the outside."""
    reach = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        reach[np.unique(pieces.take((0, -1), axis))] = True
    reach[0] = False
    return reach


def _touching(
    starts: Int[np.ndarray, " n"], ends: Int[np.ndarray, " n"], line: int, reach: int
) -> Int[np.ndarray, "2 m"]:
    """Pairs of runs, the second ``line`` voxels further on, that are next to each other.

    Args:
        starts: first voxel of each run, in rising order, counted through the volume.
        ends: the voxel behind each run.
        line: distance of the neighbouring line.
        reach: how far beyond its ends a run touches another.
    """
    first = np.searchsorted(ends, starts + (line - reach), side="right")
    counts = (np.searchsorted(starts, ends + (line + reach)) - first).clip(min=0)
    run = np.repeat(np.arange(len(starts)), counts)
    place = np.arange(len(run)) - np.repeat(counts.cumsum() - counts, counts)
    return np.stack([run, np.repeat(first, counts) + place]).astype(np.int32)


def _roots(count: int, edges: Int[np.ndarray, "2 n"]) -> Int[np.ndarray, " count"]:
    """The lowest member of the tree of each of ``count`` runs that are joined by ``edges``."""
    parents = np.arange(count, dtype=np.int32)
    while edges.size:
        np.minimum.at(parents, edges.max(0), edges.min(0))
        while (parents[parents] != parents).any():
            parents = parents[parents]
        edges = parents[edges]
        edges = edges[:, edges[0] != edges[1]]
    return parents
