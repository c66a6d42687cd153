import torch

from patchmorph.spatial import affine


def matrices(seed=0, batch=3):
    generator = torch.Generator().manual_seed(seed)
    linear = torch.eye(3, dtype=torch.float64) + 0.4 * torch.randn(
        batch, 3, 3, generator=generator, dtype=torch.float64
    )
    return affine.from_linear(linear, torch.randn(batch, 3, generator=generator, dtype=torch.float64))


def test_apply_agrees_with_the_matrix_product():
    matrix, points = matrices(), torch.randn(3, 5, 2, 3, dtype=torch.float64)
    homogeneous = torch.cat([points, torch.ones_like(points[..., :1])], -1)
    expected = torch.einsum("bij,buvj->buvi", matrix, homogeneous)[..., :3]
    torch.testing.assert_close(affine.apply_affine(matrix, points), expected)


def test_one_matrix_serves_a_batch_of_points_and_the_other_way_round():
    matrix, points = matrices(), torch.randn(3, 7, 3, dtype=torch.float64)
    assert affine.apply_affine(matrix[:1], points).shape == (3, 7, 3)
    assert affine.apply_affine(matrix, points[:1]).shape == (3, 7, 3)


def test_inverse_agrees_with_linalg():
    matrix = matrices()
    torch.testing.assert_close(affine.invert_affine(matrix), torch.linalg.inv(matrix))


def test_exponential_agrees_with_linalg():
    generator = 1.5 * torch.randn(4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        affine.exponential(generator), torch.linalg.matrix_exp(generator), rtol=1e-7, atol=1e-8
    )


def test_skew_is_the_cross_product():
    a, b = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close((affine.skew(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


def test_about_point_keeps_the_point():
    linear, center = matrices()[:, :3, :3], torch.randn(3, 3, dtype=torch.float64)
    moved = affine.apply_affine(affine.about_point(linear, center), center[:, None])
    torch.testing.assert_close(moved[:, 0], center)
