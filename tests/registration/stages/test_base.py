"""The contracts of stages that are checked, and of descents."""

from dataclasses import dataclass

import pytest
import torch
from pairs import given_pair, normalized
from synthetic import AFFINES, grid_around, smooth_image

from patchmorph.progress import listening
from patchmorph.registration.pair import PreparedPair
from patchmorph.registration.stages.base import GuardedStage, Stage
from patchmorph.registration.stages.descent import Descent, half_cosine
from patchmorph.transforms.base import AffineTransform, Transform


def shifted(mm: float) -> AffineTransform:
    return AffineTransform.translation(torch.tensor([[mm, 0, 0]], dtype=torch.float64))


@dataclass(frozen=True)
class ShiftStage(Stage):
    """Shifts by a given distance."""

    mm: float

    @property
    def label(self) -> str:
        return f"shift by {self.mm:g} mm"

    def refine(self, pair: PreparedPair, transform: Transform) -> Transform:
        return transform @ shifted(self.mm)


@pytest.fixture(scope="module")
def pair() -> PreparedPair:
    image = normalized(smooth_image(grid_around((30, 34, 28), AFFINES["RAS"] * 6)))
    return given_pair(image, image)


@pytest.mark.parametrize("accepted", [True, False])
def test_a_guarded_stage_returns_the_new_map_where_it_is_accepted_and_else_the_one_before(pair, accepted):
    checked = []

    def accepts(*arguments) -> bool:
        checked.append(arguments)
        return accepted

    before = shifted(2.0)
    found = GuardedStage(ShiftStage(5.0), accepts).refine(pair, before)
    ((given, first, second),) = checked
    assert given is pair
    assert first is before
    torch.testing.assert_close(second.matrix, shifted(7.0).matrix)
    assert found is (second if accepted else before)


def test_a_guarded_stage_is_checked_with_the_map_that_it_begins_with(pair):
    guarded = GuardedStage(ShiftStage(5.0), lambda pair, before, after: float(after.matrix[0, 0, 3]) < 8)
    once = guarded.refine(pair, shifted(0.0))
    assert guarded.refine(pair, once) is once  # 10 mm are rejected


class Countdown(Descent):
    """Shifts by 1 mm a step, ``count`` times."""

    def __init__(self, count: int):
        self.left, self.mm = count, 0.0

    @property
    def is_done(self) -> bool:
        return self.left == 0

    @property
    def limit(self) -> int:
        return 5

    def step(self) -> None:
        self.left -= 1
        self.mm += 1.0

    @property
    def transform(self) -> Transform:
        return shifted(self.mm)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_descent_steps_until_it_is_done(count):
    torch.testing.assert_close(Countdown(count).run().matrix, shifted(float(count)).matrix)


def test_each_step_of_a_descent_is_counted():
    told = []

    class Heard:
        def started(self, step):
            told.append((step.name, step.total, 0))

        def advanced(self, step):
            told.append((step.name, step.total, step.done))

        def ended(self, step): ...

    with listening(Heard()):
        Countdown(3).run()
    assert told == [("steps", 5, done) for done in range(4)]


def test_a_descent_continues_from_its_state():
    descent = Countdown(5)
    descent.step()
    descent.step()
    torch.testing.assert_close(descent.transform.matrix, shifted(2.0).matrix)
    torch.testing.assert_close(descent.run().matrix, shifted(5.0).matrix)
    torch.testing.assert_close(descent.run().matrix, shifted(5.0).matrix)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (2 / 3, 0.25), (1.0, 0.0)]
)
def test_steps_shrink_by_half_a_cosine(progress, expected):
    assert half_cosine(progress) == pytest.approx(expected)
