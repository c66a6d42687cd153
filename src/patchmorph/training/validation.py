"""How good the model is while it trains: labelled pairs, registered as a user would."""

from pathlib import Path

import torch

from patchmorph.api import save_model
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import evaluate, summarize
from patchmorph.evaluation.pairs import PairPaths, load_pairs
from patchmorph.networks.model import PatchMorphModel
from patchmorph.registration.pipeline import register
from patchmorph.training.checkpoint import TrainingState
from patchmorph.training.config import TrainingConfig, Validation

BEST = "best.safetensors"
SHOWN = ("dice", "dice_aseg", "dice_cortex", "folding_percent", "sd_log_jacobian")


class Validator:
    """Registers the pairs of a table with the current weights; keeps the best model.

    Raises:
        PatchMorphError: a table that cannot be used, pairs without labels, or label maps that do not have the
            figure that decides.
    """

    def __init__(self, settings: Validation, config: TrainingConfig, folder: Path, device: torch.device):
        self.settings = settings
        self.folder = folder
        self.pairs = load_pairs(config.folder / settings.pairs)
        if any(pair.fixed_labels is None for pair in self.pairs):
            raise PatchMorphError(f"validation pairs must have labels, got some without in {settings.pairs}")
        # A second model: the trained one is compiled for one batch size and recorded in a graph.
        self.model = PatchMorphModel(config.model).to(device).eval()

        self._measure(self.pairs[:1])  # a mistake shows now, not after hours

    def run(self, state: TrainingState) -> tuple[dict[str, float], bool]:
        """Mean figures over the pairs, and whether they are the best so far; the best model is written."""
        self.model.load_state_dict(state.model.state_dict())
        means = self._measure(self.pairs)
        figure = means[self.settings.figure]
        best = state.best is None or figure > state.best
        if best:
            state.best = figure
            save_model(self.model, self.folder / BEST, half=True)
        return {f"validation/{name}": round(means[name], 5) for name in SHOWN if name in means}, best

    def _measure(self, pairs: list[PairPaths]) -> dict[str, float]:
        means = summarize(list(evaluate(pairs, lambda fixed, moving: register(fixed, moving, self.model))))
        if self.settings.figure not in means:
            known = ", ".join(name for name in means if name.startswith("dice"))
            raise PatchMorphError(f"validation.figure must be one of {known}, got {self.settings.figure}")
        return means
