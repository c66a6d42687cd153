"""Points by antsApplyTransformsToPoints, frozen.

Written with antspyx 0.6.3, its library function of that name::

    antsApplyTransformsToPoints -d 3 -i ants_points.csv -o ants_points_mapped.csv -t ants_affine.mat \\
        --precision 1

``ants_affine.mat`` is of ``ants.create_ants_transform`` with a matrix and an offset chosen by hand.
"""

from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parent / "data"


def coordinates(path: Path, separator: str = ",") -> np.ndarray:
    return np.loadtxt(path, delimiter=separator, skiprows=1, usecols=(0, 1, 2))


@pytest.mark.parametrize(
    "head", ["x,y,z,t,label,comment", "# x,y,z,t,label,comment", "X,Y,Z,T,label,comment"]
)
def test_a_table_of_ants_is_mapped_as_ants_does(run, tmp_path, head):
    text = (DATA / "ants_points.csv").read_text()
    (tmp_path / "points.csv").write_text(text.replace("x,y,z,t,label,comment", head))
    code, out, _ = run(
        "apply-points", DATA / "ants_affine.mat", tmp_path / "points.csv", "-o", tmp_path / "out.csv"
    )
    assert code == 0
    assert "3 points, frame: lps (by its columns x,y,z,t, as of ANTs; --frame changes it)" in out
    found, expected = coordinates(tmp_path / "out.csv"), coordinates(DATA / "ants_points_mapped.csv")
    np.testing.assert_allclose(found, expected, atol=1e-4)
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert rows[0] == head
    assert [row.split(",")[3:] for row in rows[1:]] == [
        ["0", "1", "left"],
        ["0", "2", "right"],
        ["0", "3", "middle"],
    ]


def test_the_output_of_ants_is_mapped_back(run, tmp_path):
    """Its comments are nan, which is no coordinate."""
    mapped, out = DATA / "ants_points_mapped.csv", tmp_path / "out.csv"
    assert run("apply-points", DATA / "ants_affine.mat", mapped, "-o", out, "--inverse")[0] == 0
    np.testing.assert_allclose(coordinates(out), coordinates(DATA / "ants_points.csv"), atol=1e-4)


def test_the_same_points_in_ras_and_in_semicolons_are_mapped_alike(run, tmp_path):
    points = coordinates(DATA / "ants_points.csv") * [-1, -1, 1]
    np.savetxt(tmp_path / "ras.csv", points, delimiter=";", header="x;y;z", comments="")
    code, out, _ = run(
        "apply-points", DATA / "ants_affine.mat", tmp_path / "ras.csv", "-o", tmp_path / "out.csv"
    )
    assert code == 0
    assert "frame: ras (by convention; --frame changes it)" in out
    expected = coordinates(DATA / "ants_points_mapped.csv") * [-1, -1, 1]
    np.testing.assert_allclose(coordinates(tmp_path / "out.csv", ";"), expected, atol=1e-4)
