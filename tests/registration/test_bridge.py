import torch
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.registration.bridge import bridged, in_one_contrast, likeness, mean_by_intensity
from patchmorph.registration.result import Registration
from patchmorph.registration.start import Start, find_start
from patchmorph.spatial.affine import from_translation
from patchmorph.spatial.image import Image
from patchmorph.transforms.affine import AffineTransform

IDENTITY = AffineTransform.identity()


def shifted(mm: float) -> AffineTransform:
    return AffineTransform(from_translation(torch.tensor([[mm, 0.0, 0.0]])))


def inverted_pair() -> tuple[Image, Start]:
    image = smooth_image(grid_around((75, 90, 70), AFFINES["RAS"] * 2))
    other = Image(torch.where(image.data > 0.05, 1.1 - image.data, 0), image.grid, "inverted")
    return image, find_start(image, other)


def test_means_by_intensity_follow_any_curve():
    of = torch.rand(20000, generator=torch.Generator().manual_seed(0))
    means = mean_by_intensity(of, torch.sin(4 * of))
    steps = torch.linspace(0, 1, len(means))
    # The kernel smooths over three bins of 0.02: at a curvature of 16 by some thousandths, more at the ends.
    torch.testing.assert_close(means[2:-2], torch.sin(4 * steps)[2:-2], atol=0.01, rtol=0)
    some = mean_by_intensity(0.3 + 0.1 * of, torch.full_like(of, 0.7))
    torch.testing.assert_close(some, torch.full_like(some, 0.7))  # empty bins, too


def test_either_image_comes_into_the_contrast_of_the_other():
    image, start = inverted_pair()
    for side in ("moving", "fixed"):
        made = in_one_contrast(start, IDENTITY, side)
        subject, model = (
            (made.moving_seen, start.fixed_seen) if side == "moving" else (made.fixed_seen, start.moving_seen)
        )
        inside = image.data > 0.15
        pair = torch.stack([subject.image.data[inside], model.image.data[inside]])
        assert torch.corrcoef(pair)[0, 1] > 0.98
        assert subject.content is (start.moving_seen if side == "moving" else start.fixed_seen).content


def test_the_map_on_which_the_images_agree_wins():
    _, start = inverted_pair()
    rough = Registration(start.fixed, start.moving, shifted(8.0), (IDENTITY,), ())
    assert likeness(start, IDENTITY) > likeness(start, shifted(2.0)) > likeness(start, shifted(8.0))

    def better(given: Start) -> Registration:  # stands for networks that know the fixed contrast only
        found = IDENTITY if given.fixed_seen is start.fixed_seen else shifted(4.0)
        return Registration(given.fixed, given.moving, found, (*given.history, found), ())

    best, said = bridged(start, rough, better)
    assert best.transform is IDENTITY
    assert said.startswith("the moving image")
    worse, said = bridged(
        start, rough, lambda given: Registration(given.fixed, given.moving, shifted(11.0), (), ())
    )
    assert worse.transform is rough.transform
    assert "no contrast" in said
