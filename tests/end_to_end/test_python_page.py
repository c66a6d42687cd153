"""The lines of docs/python.md run, one block after another, on a brain in another pose."""

import re
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813
import torch
from brains import inside, moved_brain
from registered import registered

import patchmorph
from patchmorph.io.images import load_image
from patchmorph.networks.model import PatchMorphModel

PAGE = (Path(__file__).parents[2] / "docs" / "python.md").read_text(encoding="utf-8")


def test_the_lines_run(mni, tmp_path, monkeypatch, capsys):
    _, _, truth = moved_brain(mni, tmp_path, smoothly=True)
    monkeypatch.chdir(tmp_path)
    lines: dict = {}
    calls = []

    def known(fixed, moving, model="auto"):  # the README has the same line, which takes ten seconds
        calls.append((fixed, moving, isinstance(model, PatchMorphModel)))
        return registered(load_image(Path(fixed)), load_image(Path(moving)), truth)

    monkeypatch.setattr(patchmorph, "register", known)
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(block, lines)
    assert calls == [("fixed.nii.gz", "moving.nii.gz", is_loaded) for is_loaded in (False, True)]
    brain = mni.data > 0.1
    for name in ("warped.nii.gz", "again.nii.gz"):
        warped = load_image(tmp_path / name)
        assert torch.corrcoef(torch.stack([mni.data[brain], warped.data[brain]]))[0, 1] > 0.92
    points = inside(mni)
    difference = (lines["again"](points) - lines["transform"](points)).norm(dim=-1)
    assert difference.mean() < 0.05  # mm: the file holds a trilinear table of the splines
    assert difference.max() < 0.2
    assert (lines["unmapped"] - lines["points"]).norm(dim=-1).max() < 0.01
    volume, image = lines["for_nibabel"], lines["for_simpleitk"]
    np.testing.assert_array_equal(np.asarray(volume.dataobj), lines["array"])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image).T, lines["array"])
    lps = np.array([-1, -1, 1])
    for landmark, moved in zip(lines["landmarks"], lines["in_moving"], strict=True):
        by_itk = lines["for_resample"].TransformPoint((landmark * lps).tolist())
        np.testing.assert_allclose(by_itk * lps, moved, atol=0.1)  # a table of the splines, as in files
    assert all((tmp_path / name).is_file() for name in lines["lists"]["fwdtransforms"])
    printed = capsys.readouterr().out
    assert "missing.nii.gz" in printed
    assert printed.startswith("pass ()")
