"""Connected components of boolean volumes: runs along the last axis are joined across neighbouring lines.

Each set of runs is a tree of parents. A root is joined to the lowest root that it touches, and paths are
compressed, until no edge joins two trees (Shiloach and Vishkin, J. Algorithms 3, 1982): a few passes over
arrays, whatever the shape of the components is.
"""

import numpy as np
from jaxtyping import Bool, Int

FACES = ((0, 1, 0), (1, 0, 0))
"""Steps to the neighbouring lines at which voxels share a face."""
CORNERS = tuple((*line, step) for line in ((0, 1), (1, -1), (1, 0), (1, 1)) for step in (-1, 0, 1))
"""Those at which they share a face, an edge or a corner."""


def connected_components(
    mask: Bool[np.ndarray, "x y z"], diagonal: bool = False
) -> tuple[Int[np.ndarray, "x y z"], int]:
    """Number of each voxel's component, 0 outside ``mask``, in the order of first voxels; how many there are.

    Args:
        mask: the volume.
        diagonal: whether voxels that share an edge or a corner are connected, too.
    """
    starts = mask.copy()
    starts[..., 1:] &= ~mask[..., :-1]
    runs = np.cumsum(starts, dtype=np.int32).reshape(mask.shape) * mask
    edges = [_touching(runs, mask, starts, step) for step in (CORNERS if diagonal else FACES)]
    roots = _roots(int(starts.sum()) + 1, np.concatenate(edges, axis=1))
    numbers = np.cumsum(roots == np.arange(len(roots)), dtype=np.int32) - 1  # by root; 0 is outside
    return numbers[roots][runs], int(numbers[-1])


def on_faces(pieces: Int[np.ndarray, "x y z"], count: int) -> Bool[np.ndarray, " n"]:
    """Whether each of ``count`` components reaches a face of the array, after an entry for the outside."""
    reach = np.zeros(count + 1, dtype=bool)
    for axis in range(3):
        reach[np.unique(pieces.take((0, -1), axis))] = True
    reach[0] = False
    return reach


def _touching(
    runs: Int[np.ndarray, "x y z"],
    mask: Bool[np.ndarray, "x y z"],
    starts: Bool[np.ndarray, "x y z"],
    step: tuple[int, ...],
) -> Int[np.ndarray, "2 n"]:
    """Pairs of runs with voxels at that step from each other, once for each row of such voxels.

    A row of them begins where a run does (``starts``), or at the edge of the array.
    """
    here = tuple(slice(max(0, -length), min(0, -length) or None) for length in step)
    there = tuple(slice(max(0, length), min(0, length) or None) for length in step)
    touching = mask[here] & mask[there]
    touching[..., 1:] &= starts[here][..., 1:] | starts[there][..., 1:]
    return np.stack([runs[here][touching], runs[there][touching]])


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
