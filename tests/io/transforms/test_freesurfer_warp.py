"""FreeSurfer's own library (surfa) needs a compiler: benchmarks/transforms.py asks it."""

import gzip
import struct

import nibabel
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around, rotation, smooth_velocity

from patchmorph.errors import PatchMorphError
from patchmorph.io.grids import GridPair, matrix_of
from patchmorph.io.transforms.formats import load_transform, save_transform
from patchmorph.io.transforms.freesurfer_warp import HEADER_BYTES, LABELS_TAG, SCAN_BYTES, TYPE_TAG


@pytest.fixture
def pair():
    return GridPair(
        grid_around((14, 15, 16), AFFINES["LIA"] * 4, (3, 2, 1)),
        grid_around((12, 18, 20), AFFINES["oblique"] * 3, (9, 2, 4)),
    )


@pytest.fixture
def transform():
    return rotation() @ smooth_velocity(grid_around((16, 16, 16), AFFINES["RAS"] * 5), 3.0)


def rewritten(path, change):
    """The file with its numbers changed and another format in its last tag."""
    data = bytearray(gzip.decompress(path.read_bytes()))
    count = 3 * 14 * 15 * 16
    numbers = np.frombuffer(data, ">f4", count, HEADER_BYTES).reshape(14, 15, 16, 3, order="F")
    kind, values = change(numbers.astype(np.float64))
    data[HEADER_BYTES : HEADER_BYTES + 4 * count] = values.astype(">f4").tobytes(order="F")
    data[-12:-8] = struct.pack(">i", kind)
    path.write_bytes(bytes(data))


def test_all_four_formats_are_read(tmp_path, pair, transform):
    points = pair.fixed.points_world()
    here = points[0].double().numpy()
    to_voxel = np.linalg.inv(matrix_of(pair.moving))

    def absolute_voxel(shift):
        return (here + shift) @ to_voxel[:3, :3].T + to_voxel[:3, 3]

    voxel = pair.fixed.points_voxel()[0].numpy()
    changes = {
        "as written": None,
        "absolute voxels": lambda shift: (0, absolute_voxel(shift)),
        "shifts in voxels": lambda shift: (1, absolute_voxel(shift) - voxel),
        "absolute world": lambda shift: (2, here + shift),
    }
    for name, change in changes.items():
        path = tmp_path / "warp.mgz"
        save_transform(transform, path, pair=pair)
        if change:
            rewritten(path, change)
        found = load_transform(path)(points)
        torch.testing.assert_close(found, transform(points), atol=1e-3, rtol=0, msg=name)  # float32 numbers


def test_the_volume_is_what_nibabel_reads_but_for_its_intent(tmp_path, pair, transform):
    save_transform(transform, tmp_path / "warp.mgz", pair=pair)
    data = bytearray(gzip.decompress((tmp_path / "warp.mgz").read_bytes()))
    assert struct.unpack_from(">i", data)[0] == 3 << 8 | 1
    struct.pack_into(">i", data, 0, 1)
    volume = nibabel.MGHImage.from_bytes(bytes(data))
    points = pair.fixed.points_world()
    expected = (transform(points) - points)[0].numpy()
    np.testing.assert_allclose(np.asarray(volume.dataobj), expected, atol=1e-3)
    np.testing.assert_allclose(volume.affine, matrix_of(pair.fixed), atol=1e-4)
    # The tag of the geometries follows the scan parameters; the moving volume is first.
    tag, valid, *shape = struct.unpack_from(">5i", data, HEADER_BYTES + 4 * 3 * 14 * 15 * 16 + SCAN_BYTES)
    assert (tag, valid, tuple(shape)) == (10, 1, pair.moving.shape)


def test_tags_without_a_length_are_passed_over(tmp_path, pair, transform):
    """A type of one number and labels of one number a voxel, between the scan parameters and geometries."""
    save_transform(transform, tmp_path / "warp.mgz", pair=pair)
    data = gzip.decompress((tmp_path / "warp.mgz").read_bytes())
    voxels = 14 * 15 * 16
    at = HEADER_BYTES + 4 * 3 * voxels + SCAN_BYTES
    tags = struct.pack(">ii", TYPE_TAG, 7) + struct.pack(f">i{voxels}i", LABELS_TAG, *range(1, voxels + 1))
    (tmp_path / "tagged.mgz").write_bytes(data[:at] + tags + data[at:])
    points = pair.fixed.points_world()
    plain, tagged = (load_transform(tmp_path / f"{name}.mgz")(points) for name in ("warp", "tagged"))
    assert torch.equal(plain, tagged)


def test_other_volumes_are_refused(tmp_path, pair, transform):
    nibabel.save(nibabel.MGHImage(np.zeros((4, 4, 4), np.float32), np.eye(4)), tmp_path / "plain.mgz")
    with pytest.raises(PatchMorphError, match="must be a FreeSurfer warp, got another volume"):
        load_transform(tmp_path / "plain.mgz")
    save_transform(transform, tmp_path / "warp.mgz", pair=pair)
    whole = gzip.decompress((tmp_path / "warp.mgz").read_bytes())
    (tmp_path / "cut.mgz").write_bytes(whole[:-1700])
    with pytest.raises(PatchMorphError, match="must be a whole file of freesurfer"):
        load_transform(tmp_path / "cut.mgz")
    sheared = np.eye(3)
    sheared[0, 1] = 0.3
    with pytest.raises(PatchMorphError, match="must be on a grid without shear"):
        save_transform(
            transform, tmp_path / "x.mgz", pair=GridPair(pair.fixed, grid_around((5, 5, 5), sheared))
        )


@pytest.mark.parametrize(
    ("at", "packed", "message"),
    [
        (78, struct.pack(">f", 40.0), r"must have one geometry, got two .* mm apart in .*warp\.mgz"),  # c_r
        (
            4,
            struct.pack(">3i", 15, 14, 16),
            r"must be 3 numbers a voxel of \(14, 15, 16\), got shape \(15, 14, 16, 3\)",
        ),
    ],
)
def test_header_and_tags_must_agree(tmp_path, pair, transform, at, packed, message):
    """The grid of the voxels stands in the header and, as the fixed volume, in the tags."""
    save_transform(transform, tmp_path / "warp.mgz", pair=pair)
    data = bytearray(gzip.decompress((tmp_path / "warp.mgz").read_bytes()))
    data[at : at + len(packed)] = packed
    (tmp_path / "warp.mgz").write_bytes(bytes(data))
    with pytest.raises(PatchMorphError, match=message):
        load_transform(tmp_path / "warp.mgz")
