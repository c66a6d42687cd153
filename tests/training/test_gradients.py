"""Gradients of all batches and processes become one mean, clipped by its norm."""

import json

import pytest
import torch
from tiny import CPU, all_terms, config, draw, gradient
from torch import nn

from patchmorph.training.gradients import FlatGradients, Report, add_gradients
from patchmorph.training.record import Record


class Two(nn.Module):
    """Two parameters of other shapes."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.zeros(2, 3))
        self.b = nn.Parameter(torch.zeros(4))


def test_the_buffer_is_the_gradients_in_the_order_of_the_parameters():
    model = Two()
    flat = FlatGradients(model)
    ((torch.arange(6.0).reshape(2, 3) * model.a).sum() + (10 * torch.arange(4.0) * model.b).sum()).backward()
    assert flat.buffer.tolist() == [0, 1, 2, 3, 4, 5, 0, 10, 20, 30]
    flat.buffer.zero_()
    assert model.a.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("batches", "processes", "clip", "norm", "scale"),
    [
        (1, 1, 10.0, 5.0, 1.0),
        (2, 1, 10.0, 2.5, 0.5),
        (1, 2, 10.0, 7.5, 1.5),  # the other process has twice the gradient: (1 + 2) / 2
        (3, 2, 10.0, 2.5, 0.5),
        (1, 1, 0.5, 5.0, 0.1),  # clipped to a norm of 0.5
        (1, 2, 3.75, 7.5, 0.75),
    ],
)
def test_the_mean_over_batches_and_processes_is_clipped(monkeypatch, batches, processes, clip, norm, scale):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.mul_(3))
    model = Two()
    flat = FlatGradients(model)
    flat.buffer[:2] = torch.tensor([3.0, 4.0])
    assert flat.finish(batches, processes, clip).item() == pytest.approx(norm)
    # The length that gradients are divided by is 1e-6 longer, so that none is 0 / 0.
    assert flat.buffer[:3].tolist() == pytest.approx([3 * scale, 4 * scale, 0], rel=1e-5)
    assert model.a.grad[0, 1].item() == pytest.approx(4 * scale, rel=1e-5)


def test_batches_add_up(model, cohort):
    """The gradient of a batch is the mean of its chains', so accumulating is a larger batch."""
    whole = gradient(model, cohort, draw(), config())
    flat = FlatGradients(model)
    for chain in range(3):
        add_gradients(model, cohort, draw().part(chain, 1), config())
    norm = flat.finish(batches=3, processes=1, clip=1e9)
    # float32 sums in another order.
    torch.testing.assert_close(flat.buffer, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())
    assert norm == pytest.approx(whole.norm().item(), rel=1e-4)


@pytest.mark.parametrize("through", [True, False])
def test_a_report_sums_every_term_over_the_chains_that_have_it(model, cohort, through):
    asked = config(optimization={"through_chain": through})
    drawn = draw(0.5, seed=1)
    report = add_gradients(model, cohort, drawn, asked)
    terms = all_terms(model, cohort, drawn, asked)
    assert set(report.names) == set(terms)
    known = int((drawn.fixed_index == drawn.moving_index).sum())
    assert 0 < known < 3
    torch.testing.assert_close(report.losses, terms["loss"].detach())
    for name, total, count in zip(report.names, *report.sums.tolist(), strict=True):
        assert count == (known if name.startswith("error_mm") else 3), name
        assert total == pytest.approx(terms[name].nansum().item(), rel=1e-4, abs=1e-6), name


def test_a_line_of_the_log_is_the_mean_since_the_last_one(tmp_path):
    """Over chains, not over batches: a term that few chains have counts those only."""
    names = ("loss", "error_mm/0", "landmarks/0")

    def report(*sums_and_counts):
        return Report(torch.zeros(1), names, torch.tensor(sums_and_counts).T.contiguous())

    with Record(tmp_path, 4, 10, CPU) as record:
        record.add(report([6.0, 2], [1.0, 1], [0.0, 0]))
        record.add(report([3.0, 1], [5.0, 1], [0.0, 0]))
        record.line(6, 0.25, torch.tensor(1.5), 1)
        record.add(report([8.0, 2], [0.0, 0], [3.0, 2]))
        record.line(7, 0.125, torch.tensor(2.5), 1)
    first, second = (json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines())
    assert (first["step"], first["loss"], first["error_mm/0"]) == (6, 3, 3)
    assert (first["learning_rate"], first["gradient_norm"]) == (0.25, 1.5)
    assert "landmarks/0" not in first
    assert (second["step"], second["loss"], second["landmarks/0"]) == (7, 4, 1.5)
    assert (second["learning_rate"], second["gradient_norm"]) == (0.125, 2.5)
    assert "error_mm/0" not in second


def test_a_line_is_the_mean_over_all_processes(tmp_path, monkeypatch):
    """The other process has two chains, whose losses sum to 14."""
    others = torch.tensor([[14.0], [2.0]])
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(others))
    with Record(tmp_path, 0, 10, CPU) as record:
        record.add(Report(torch.zeros(1), ("loss",), torch.tensor([[1.0], [1.0]])))
        record.line(1, 0.25, torch.tensor(1.5), 2)
    assert json.loads((tmp_path / "log.jsonl").read_text())["loss"] == 5


def test_a_record_goes_on_after_the_step_of_the_checkpoint(tmp_path):
    lines = [json.dumps({"step": step, "loss": 1.0}) + "\n" for step in (1, 2, 3)]
    (tmp_path / "log.jsonl").write_text("".join(lines) + '{"step": 4, "lo')
    with Record(tmp_path, 2, 10, CPU):
        pass
    assert (tmp_path / "log.jsonl").read_text() == "".join(lines[:2])
