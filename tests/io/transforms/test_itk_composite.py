"""The numbers of displacement fields in ITK's HDF5 files."""

import h5py
import numpy as np
import pytest
import torch
from synthetic import AFFINES, grid_around

from patchmorph.io.transforms import itk_composite
from patchmorph.io.transforms.itk_composite import STEP_MM, read_records, write_parts
from patchmorph.transforms.displacement import DisplacementField

SHAPE = (7, 8, 9)


@pytest.mark.parametrize("chunk", [2**17, 100, 3 * 7 * 8 * 9, 189])
def test_numbers_are_those_of_the_field_in_steps(tmp_path, monkeypatch, chunk):
    """In one chunk, in whole ones, and with a last one that is not full; x is fastest, in LPS+."""
    monkeypatch.setattr(itk_composite, "CHUNK", chunk)
    values = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(0)) * 20
    write_parts((DisplacementField(values, grid_around(SHAPE, AFFINES["LIA"] * 2)),), tmp_path / "field.h5")
    expected = values[0].numpy().transpose(3, 2, 1, 0) * np.array([-1, -1, 1])
    found = read_records(tmp_path / "field.h5")[1].parameters
    np.testing.assert_allclose(found, expected.ravel(), atol=STEP_MM / 2, rtol=0)
    assert np.array_equal(found / STEP_MM, np.round(found / STEP_MM))


def test_numbers_are_deflated(tmp_path):
    zeros = DisplacementField(torch.zeros(1, 3, 40, 40, 40), grid_around((40, 40, 40), np.eye(3)))
    write_parts((zeros,), tmp_path / "field.h5")
    with h5py.File(tmp_path / "field.h5") as file:
        data = file["TransformGroup/1/TransformParameters"]
        assert (data.compression, data.shuffle, data.dtype) == ("gzip", True, np.dtype("<f4"))
    assert (tmp_path / "field.h5").stat().st_size < 40**3
