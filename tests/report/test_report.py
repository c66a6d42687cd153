import json

import numpy as np
import pytest
from synthetic import grid_around, rotation, smooth_image, smooth_velocity

from patchmorph.registration.result import Registration
from patchmorph.report import figures
from patchmorph.report.folder import write_registration
from patchmorph.report.page import render_report
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform


@pytest.fixture
def registration() -> Registration:
    grid = grid_around((75, 86, 70), np.eye(3) * 2)
    image = smooth_image(grid)
    fixed = Image(image.data, grid, "<fixed> & co.nii.gz")
    start = AffineTransform.identity()
    transform = rotation(3) @ smooth_velocity(grid_around((30, 34, 28), np.eye(3) * 5), 2.0)
    return Registration(fixed, image, transform, (start, transform))


def test_figures_show_something_in_every_plane(registration):
    for figure in (figures.comparison(registration), figures.deformation(registration)):
        assert figures.png(figure).startswith(b"\x89PNG")
        assert len(figure.axes) == 6
        for axes in figure.axes:
            assert np.ptp(np.asarray(axes.images[0].get_array())) > 0.1


def test_planes_are_named_by_where_their_edges_point(registration):
    titles = [axes.get_title() for axes in figures.comparison(registration).axes]
    assert [title.split(",")[0] for title in titles] == ["sagittal", "coronal", "axial"] * 2


def test_the_page_escapes_names_and_holds_its_figures(registration):
    page = render_report(registration, {"fixed": registration.fixed.name, "moving": "b", "score": 0.123456})
    assert "&lt;fixed&gt; &amp; co.nii.gz" in page
    assert "0.1235" in page
    assert page.count("data:image/png;base64,") == 2
    assert "http" not in page.replace("http-equiv", "")


def test_the_summary_says_what_was_measured(registration, tmp_path):
    summary = write_registration(
        registration, tmp_path / "out", {"register": 1.5}, {"versions": {"torch": "x"}}
    )
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored == summary
    assert stored["seconds"]["register"] == 1.5
    assert stored["seconds"]["write"] > 0
    assert stored["folding_percent"] == 0
    assert stored["similarity_before"] == pytest.approx(1, abs=1e-3)  # the same image, interpolated
    assert stored["similarity_after"] < 1
