"""Surfaces that VTK 9.7.2 writes: ``python make_vtk.py`` (pip install vtk==9.7.2) writes them to ``vtk/``.

All hold one octahedron with normals of points and faces, scalars, vectors, texts, bits and field data, as far
as the format can; ``vtk/points.txt`` holds the points as VTK reads them.
"""

from pathlib import Path

import numpy as np
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

FOLDER = Path(__file__).parent / "vtk"


def named(values: np.ndarray, name: str) -> vtk.vtkDataArray:
    array = numpy_to_vtk(np.ascontiguousarray(values), deep=True)
    array.SetName(name)
    return array


def octahedron() -> vtk.vtkPolyData:
    sphere = vtk.vtkSphereSource()
    sphere.SetThetaResolution(4)
    sphere.SetPhiResolution(3)
    sphere.SetRadius(20)
    sphere.SetCenter(1.1, -2.3, 3.7)
    sphere.Update()
    surface = sphere.GetOutput()
    count = surface.GetNumberOfPoints()
    data = surface.GetPointData()
    data.SetScalars(named(np.arange(count, dtype=np.float64) / 3, "my thickness"))
    data.AddArray(named(np.arange(3 * count, dtype=np.int32).reshape(-1, 3), "ids"))
    texts, bits, space = vtk.vtkStringArray(), vtk.vtkBitArray(), vtk.vtkStringArray()
    for array, name in ((texts, "labels"), (bits, "flag"), (space, "SPACE")):
        array.SetName(name)
    for k in range(count):
        texts.InsertNextValue(f"a b{k}" if k % 2 else "")
        bits.InsertNextValue(k % 2)
    space.InsertNextValue("LPS")
    data.AddArray(texts)
    data.AddArray(bits)
    surface.GetFieldData().AddArray(space)
    surface.GetCellData().SetNormals(named(np.ones((surface.GetNumberOfCells(), 3), np.float32), "CN"))
    surface.GetPoints().GetData().GetRange(-1)  # VTK stores this range with the points from now on
    return surface


def write(writer: vtk.vtkWriter, surface: vtk.vtkPolyData, name: str) -> None:
    writer.SetFileName(str(FOLDER / name))
    writer.SetInputData(surface)
    writer.Write()


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    surface = octahedron()
    np.savetxt(FOLDER / "points.txt", vtk_to_numpy(surface.GetPoints().GetData()), "%.9g")
    for version in (42, 51):
        for kind in ("ASCII", "Binary"):
            writer = vtk.vtkPolyDataWriter()
            writer.SetFileVersion(version)
            getattr(writer, f"SetFileTypeTo{kind}")()
            writer.SetHeader("3D Slicer output. SPACE=LPS")
            write(writer, surface, f"legacy_{version}_{kind.lower()}.vtk")
    for mode, compressor, coded, header in (
        ("Ascii", "None", 0, 32),
        ("Binary", "None", 0, 64),
        ("Binary", "ZLib", 0, 32),
        ("Binary", "LZ4", 0, 32),
        ("Appended", "None", 0, 32),
        ("Appended", "ZLib", 0, 64),
        ("Appended", "ZLib", 1, 32),
        ("Appended", "LZMA", 1, 64),
    ):
        writer = vtk.vtkXMLPolyDataWriter()
        getattr(writer, f"SetDataModeTo{mode}")()
        getattr(writer, f"SetCompressorTypeTo{compressor}")()
        writer.SetEncodeAppendedData(coded)
        getattr(writer, f"SetHeaderTypeToUInt{header}")()
        name = f"xml_{mode}_{compressor}_{'raw_' * (mode == 'Appended' and not coded)}{header}.vtp"
        write(writer, surface, name.lower())
    for order in ("ASCII", "LittleEndian", "BigEndian"):
        writer = vtk.vtkPLYWriter()
        writer.SetFileTypeToASCII() if order == "ASCII" else writer.SetFileTypeToBinary()
        if order == "BigEndian":
            writer.SetDataByteOrderToBigEndian()
        writer.AddComment("SPACE=LPS")
        write(writer, surface, f"ply_{order.lower()}.ply")


if __name__ == "__main__":
    main()
