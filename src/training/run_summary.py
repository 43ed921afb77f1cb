"""Summarise a finished run: final table, curves and report."""

from __future__ import annotations

from src.config.train import TrainSettings
from src.embedding import Embedded
from src.metrics import Protocol, format_report
from src.text import on_screen
from src.training.progress import TrainState
from src.training.run_files import CURVES, LOG, REPORT
from src.training.trainer import TrainComponents


def print_summary(settings: TrainSettings, components: TrainComponents, state: TrainState) -> None:
    """Print the final metrics and the checkpoints, and draw the curves."""
    from src.visualize import save_curves  # matplotlib is slow to import

    folder, selection = components.folder.path, settings.selection
    save_curves(state.entries, folder / CURVES)
    print(f"\nlast epoch:\n{format_report(state.entries[-1]['metrics'], images=selection.images)}")
    images = "evaluation images themselves" if selection.select_on == "test" else "held-out training images"
    for criterion, (value, epoch) in state.best.items():
        print(
            f"best {criterion}.{selection.best_metric}: {value:.2f} in epoch {epoch} (selected on the {images}): "
            f"{folder / f'model-best-{criterion}.ckpt'}"
        )
    print(on_screen(f"last: {folder / 'model-last.ckpt'}; log: {folder / LOG}; curves: {folder / CURVES}"))


def write_run_report(
    settings: TrainSettings, components: TrainComponents, state: TrainState, embedded: Embedded
) -> None:
    """Write ``report.html`` about the last epoch with its embeddings."""
    from src.run_report import Evaluated, RunReport, write_report  # matplotlib is slow to import

    folder, evaluator, entry = components.folder.path, components.evaluator, state.entries[-1]
    evaluated = Evaluated(
        split=evaluator.split,
        paths=[evaluator.evaluation.paths[row] for row in embedded.rows.tolist()],
        embeddings=embedded.outputs,
        truth=evaluator.evaluation.ground_truth(embedded.rows),
        protocol=Protocol(images=settings.selection.images),
        metrics=entry["metrics"],
    )
    content = RunReport(
        title=f"{evaluator.split.name}: {folder.resolve().name}",
        chosen=describe_choice(settings, entry["epoch"]),
        settings=components.identity.settings,
        entries=state.entries,
        evaluated=evaluated,
    )
    write_report(folder / REPORT, content)
    print(on_screen(f"report: {folder / REPORT}"))


def describe_choice(settings: TrainSettings, epoch: int) -> str:
    """Describe the epoch of the report; an early stop is a selection too."""
    selection, last = settings.selection, settings.run.num_epochs
    if epoch == last:
        return f"The last epoch, {epoch} of {last}: nothing was selected."
    return (
        f"The last epoch, {epoch} of at most {last}: --early-stopping ended the run by {selection.best_metric}, "
        f"--select-on {selection.select_on}."
    )
