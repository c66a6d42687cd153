"""The pages of an evaluation: one for each pair, and their list."""

import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from patchmorph.api import Method
from patchmorph.evaluation.benchmark import Evaluated, PairResult
from patchmorph.evaluation.comparison import Evaluation
from patchmorph.evaluation.pairs import REQUIRED, PairPaths
from patchmorph.io.atomic import writing
from patchmorph.io.bids import stem
from patchmorph.registration.options import AFFINE, DEFORMABLE
from patchmorph.registration.result import Registration
from patchmorph.report.cohort import FAILED, Row, write_cohort
from patchmorph.report.layers import PairView
from patchmorph.report.page import write_page
from patchmorph.report.tools import render_tools
from patchmorph.results.summary import Summary, device_name, peak_memory_gib, versions
from patchmorph.transforms.base import AffineTransform
from patchmorph.workers import beside

PAGES = "reports"
"""Folder of the pages of the pairs, in that of the evaluation."""
COLUMNS = {
    "dice": "Dice",
    "ncc_after": "correlation after",
    "hd95_mm": "HD95 (mm)",
    "folding_percent": "folding (%)",
    "sd_log_jacobian": "SD of the log-Jacobian",
    "seconds": "seconds",
}
"""Figures in the list of pairs, and their names."""


@dataclass
class EvaluationPages:
    """Writes the page of each pair as soon as it is measured, and the list at the end.

    Attributes:
        folder: of the evaluation.
        methods: how the pairs are registered, by the tool that a pair names.
    """

    folder: Path
    methods: Mapping[str, Method]
    _kept: dict[int, tuple[Path, str]] = field(default_factory=dict)
    _written: Future[None] | None = None

    def keep(self, number: int, paths: PairPaths, evaluated: Evaluated) -> None:
        """Write the page of the pair at a place of the table.

        It is written beside what follows, once the page before is there; where pairs have a core each, it is
        written at once.
        """
        self.wait()
        (self.folder / PAGES).mkdir(parents=True, exist_ok=True)
        page = self.folder / PAGES / f"{number:03d}_{self._page_name(evaluated.result)}.html"
        summary = self._summary(paths, evaluated)
        view = PairView.of(evaluated.registration, evaluated.warped, evaluated.labels)
        self._kept[id(evaluated.result)] = page, "; ".join(summary.reasons)
        self._written = beside(1).submit(_write, page, view, summary)
        if torch.get_num_threads() == 1:
            self.wait()

    def _page_name(self, result: PairResult) -> str:
        """With the tool's name, where several may be compared."""
        named = result.transform or len(self.methods) > 1
        return f"{_name(result)}_by_{result.tool}" if named else _name(result)

    def wait(self) -> None:
        """Wait until all pages are there, so that nothing runs beside a registration that is timed."""
        if self._written is not None:
            self._written.result()

    def write_list(self, results: Sequence[PairResult], evaluation: Evaluation) -> Path:
        """Write ``index.html``: the worst pair first, then what is known of the tools."""
        self.wait()
        rows, several = [], len(evaluation.tools) > 1
        for result in results:
            page, reasons = self._kept.get(id(result), (None, result.error))
            verdict = FAILED if result.error else result.verdict
            numbers = {name: getattr(result, figure) for figure, name in COLUMNS.items()}
            name = f"{_name(result)} by {result.tool}" if several else _name(result)
            rows.append(Row(name, verdict, reasons, numbers, page))
        return write_cohort(rows, self.folder, self.folder.absolute().name, render_tools(evaluation))

    def _summary(self, paths: PairPaths, evaluated: Evaluated) -> Summary:
        registration, result = evaluated.registration, evaluated.result
        device = registration.fixed.grid.device
        return Summary(
            fixed=str(paths.fixed),
            moving=str(paths.moving),
            verdict=registration.verdict.level,
            reasons=list(registration.verdict.reasons),
            similarity_before=result.ncc_before,
            similarity_after=result.ncc_after,
            folding_percent=result.folding_percent,
            sd_log_jacobian=result.sd_log_jacobian,
            evidence=asdict(registration.evidence),
            notes=list(registration.notes),
            without_counterpart_percent=100 * registration.fraction_without_counterpart,
            arguments=self._arguments(paths, registration),
            versions=versions(),
            device=device_name(device),
            peak_memory_gib=peak_memory_gib(device),
            seconds={} if math.isnan(result.seconds) else {"register": result.seconds},
            dice={str(one.label): one.dice for one in result.structures if one.in_fixed},
            files={name: os.path.relpath(path, self.folder / PAGES) for name, path in paths.given().items()},
        )

    def _arguments(self, paths: PairPaths, registration: Registration) -> dict[str, Any]:
        """What a registration depends on; of a map made elsewhere, its kind."""
        if paths.transform is not None:
            linear = isinstance(registration.transform, AffineTransform)
            return {"transform": AFFINE if linear else DEFORMABLE}
        given = {name: str(path) for name, path in paths.given().items() if name not in REQUIRED}
        return given | self.methods[paths.tool].arguments()


def _write(page: Path, view: PairView, summary: Summary) -> None:
    with writing(page):
        write_page(page, view, summary)


def _name(result: PairResult) -> str:
    return f"{stem(Path(result.moving))}_to_{stem(Path(result.fixed))}"
