"""How good the model is while it trains: labelled pairs, registered as a user would."""

from pathlib import Path

import torch

from patchmorph.api import save_model
from patchmorph.errors import PatchMorphError
from patchmorph.evaluation.benchmark import evaluate, summarize
from patchmorph.evaluation.pairs import load_pairs
from patchmorph.registration.model import PatchMorphModel
from patchmorph.registration.register import register
from patchmorph.training.checkpoint import TrainingState
from patchmorph.training.config import TrainingConfig, Validation

BEST = "best.safetensors"
SHOWN = ("dice", "dice_aseg", "dice_cortex", "folding_percent", "sd_log_jacobian")


class Validator:
    """Registers the pairs of a table with the current weights; keeps the best model.

    Raises:
        PatchMorphError: a table that cannot be used, or pairs without labels.
    """

    def __init__(self, settings: Validation, config: TrainingConfig, folder: Path, device: torch.device):
        self.settings = settings
        self.folder = folder
        self.pairs = load_pairs(config.folder / settings.pairs)
        if any(pair.fixed_labels is None for pair in self.pairs):
            raise PatchMorphError(f"validation pairs must have labels, got some without in {settings.pairs}")
        # A second model: the trained one is compiled for one batch size and recorded in a graph.
        self.model = PatchMorphModel(config.model).to(device).eval()

    def run(self, state: TrainingState) -> dict[str, float]:
        """Mean figures over the pairs; writes the model if it is the best so far.

        Raises:
            PatchMorphError: the label maps do not have the figure that decides.
        """
        self.model.load_state_dict(state.model.state_dict())
        results = list(evaluate(self.pairs, lambda fixed, moving: register(fixed, moving, self.model)))
        means = summarize(results)
        chosen = self.settings.figure
        if chosen not in means:
            known = ", ".join(name for name in means if name.startswith("dice"))
            raise PatchMorphError(f"validation.figure must be one of {known}, got {chosen}")
        if state.best is None or means[chosen] > state.best:
            state.best = means[chosen]
            save_model(self.model, self.folder / BEST, half=True)
        return {f"validation/{name}": round(means[name], 5) for name in SHOWN if name in means}
