import torch

from patchmorph.patches.blending import Blend, window
from patchmorph.patches.lattice import PatchLattice


def test_patches_that_agree_have_no_variance_and_others_that_of_their_answers():
    box = torch.tensor([[0.0, 0, 0], [12, 8, 8]], dtype=torch.float64)
    lattice = PatchLattice.cover(box, 1.0, 8, overlap=0.5)
    assert len(lattice.starts) == 2
    agreeing, opposed = Blend(lattice), Blend(lattice)
    answer = torch.full((2, 3, 8, 8, 8), 2.0)
    agreeing.add(lattice.starts, answer)
    opposed.add(lattice.starts, answer * torch.tensor([1.0, -1.0])[:, None, None, None, None])
    torch.testing.assert_close(agreeing.variance(), torch.zeros(1, 1, 12, 8, 8), atol=1e-4, rtol=0)
    variance = opposed.variance()[0, 0]
    # Answers of ±2 along three axes with the shares p and 1 − p: 3 · 2² · 4 p (1 − p).
    profile = window(8, torch.device("cpu"))[:, 4, 4]
    share = profile[4:] / (profile[4:] + profile[:4])
    torch.testing.assert_close(variance[4:8, 4, 4], 48 * share * (1 - share), rtol=1e-3, atol=1e-3)
    assert variance[0].max() < 1e-3  # one patch stands alone there
