"""Accuracy during training: labelled pairs are registered by the current networks alone.

Images must show brains only. There is no brain extraction, no cross-contrast model and no refinement.
"""

from pathlib import Path

import torch

from patchmorph.catalogue import save_model
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import evaluate_pair, loading, summarize
from patchmorph.evaluation.pairs import PairPaths, load_pairs
from patchmorph.networks.model import PatchMorphModel
from patchmorph.registration.pipeline import register_images
from patchmorph.training.checkpoint import TrainingState
from patchmorph.training.config import TrainingConfig, Validation

BEST = "best.safetensors"
REPORTED = ("dice", "dice_aseg", "dice_cortex", "folding_percent", "sd_log_jacobian")


class Validator:
    """Registers the pairs of a table with the current weights and saves the best model.

    Raises:
        PatchMorphError: a table that cannot be used, pairs without labels, or label maps for which the
            configured metric is undefined.
    """

    def __init__(self, settings: Validation, config: TrainingConfig, folder: Path, device: torch.device):
        self.settings = settings
        self.folder = folder
        self.pairs = load_pairs(config.folder / settings.pairs)
        if any(pair.fixed_labels is None for pair in self.pairs):
            raise PatchMorphError(f"validation pairs must have labels, got some without in {settings.pairs}")
        # A separate copy, since the trained model is compiled for one batch size and captured in a graph.
        self.model = PatchMorphModel(config.model).to(device).eval()
        self._measure(self.pairs[:1])  # raises configuration errors before training

    def run(self, state: TrainingState) -> tuple[dict[str, float], bool]:
        """Mean metrics over the pairs, and whether they are the best so far; the best model is saved."""
        self.model.load_state_dict(state.model.state_dict())
        means = self._measure(self.pairs)
        figure = means[self.settings.figure]
        best = state.best is None or figure > state.best
        if best:
            state.best = figure
            save_model(self.model, self.folder / BEST, half=True)
        return {f"validation/{name}": round(means[name], 5) for name in REPORTED if name in means}, best

    def _measure(self, pairs: list[PairPaths]) -> dict[str, float]:
        load = loading(lambda fixed, moving: register_images(fixed, moving, self.model))
        means = summarize([evaluate_pair(load(pair)) for pair in pairs])
        if self.settings.figure not in means:
            known = ", ".join(name for name in means if name.startswith("dice"))
            raise PatchMorphError(f"validation.figure must be one of {known}, got {self.settings.figure}")
        return means
