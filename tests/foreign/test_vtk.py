"""VTK reads the surfaces that are written. Skipped where it is not installed: it takes 566 MB."""

from pathlib import Path

import numpy as np
import pytest

from patchmorph.io.points.base import LPS_FRAME, RAS
from patchmorph.io.points.polydata import read_polydata

pytest.importorskip("vtkmodules", reason="VTK is not installed (pip install vtk)")
FROZEN = Path(__file__).parent / "data" / "vtk"
READABLE = sorted(path for path in FROZEN.iterdir() if path.suffix != ".txt" and "lz4" not in path.name)


def read(path):
    from vtkmodules.vtkIOLegacy import vtkPolyDataReader
    from vtkmodules.vtkIOPLY import vtkPLYReader
    from vtkmodules.vtkIOXML import vtkXMLPolyDataReader

    tool = {".vtk": vtkPolyDataReader, ".vtp": vtkXMLPolyDataReader, ".ply": vtkPLYReader}[path.suffix]()
    for name in ("ReadAllScalarsOn", "ReadAllVectorsOn", "ReadAllFieldsOn", "ReadAllNormalsOn"):
        getattr(tool, name, lambda: None)()
    tool.SetFileName(str(path))
    tool.Update()
    return tool.GetOutput()


def arrays(data):
    found = [data.GetAbstractArray(k) for k in range(data.GetNumberOfArrays())]
    return {
        array.GetName(): [str(array.GetVariantValue(k)) for k in range(array.GetNumberOfValues())]
        for array in found
    }


@pytest.mark.parametrize("target", [LPS_FRAME, RAS], ids=str)
@pytest.mark.parametrize("source", READABLE, ids=lambda path: path.name)
def test_vtk_reads_what_is_written(tmp_path, source, target):
    from vtkmodules.util.numpy_support import vtk_to_numpy

    result = tmp_path / source.name
    file = read_polydata(source)
    points = (1.37 * file.points + 3.3).astype(np.float32)
    file.save(result, points.astype(float), LPS_FRAME, target)
    before, after = read(source), read(result)
    np.testing.assert_array_equal(vtk_to_numpy(after.GetPoints().GetData()), points)
    assert after.GetPoints().GetData().GetRange(-1)[1] == pytest.approx(np.linalg.norm(points, axis=1).max())
    np.testing.assert_array_equal(
        vtk_to_numpy(after.GetPolys().GetConnectivityArray()),
        vtk_to_numpy(before.GetPolys().GetConnectivityArray()),
    )
    kept = arrays(before.GetPointData())
    kept.pop("Normals", None)
    assert arrays(after.GetPointData()) == kept
    assert arrays(after.GetCellData()) == {}
    assert [text.strip('"') for text in arrays(after.GetFieldData()).get("SPACE", [target.space])] == [
        target.space
    ]
