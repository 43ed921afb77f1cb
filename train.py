#!/usr/bin/env python3
"""Train a zero-shot multi-label model on a metadata folder; write checkpoints, a log, curves and a report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.utils.script import NOT_FINITE, run_script

if TYPE_CHECKING:
    from src.config.train import TrainSettings
    from src.training.progress import TrainState
    from src.training.run_folder import RunFolder
    from src.training.trainer import TrainComponents
    from src.utils.distributed import Processes
    from src.utils.signals import StopRequest


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script: returns 0, 3 if the loss is not finite, or 128 + N if signal N stopped the run."""
    return run_script("train.py", _main, argv)


def _main(argv: Sequence[str] | None) -> int:
    from src.config.recipes import parse_with_recipe, write_settings
    from src.config.train import complete, train_settings
    from src.config.train_flags import train_parser
    from src.errors import NonFiniteRunError, prefix_errors
    from src.utils.optional import import_extra
    from src.utils.ranks import is_other_rank, told_by_first

    with told_by_first():
        parser = train_parser(__doc__)
        args = complete(parse_with_recipe(parser, argv))
        settings = train_settings(args)
        if settings.output.tensorboard:  # before anything is written
            import_extra("torch.utils.tensorboard", "tensorboard", "--tensorboard")

    from src.data.dataset import guard_workers
    from src.training.run_folder import open_run_folder
    from src.training.setup import build_components
    from src.training.step_failures import explained_single_images
    from src.utils.distributed import joined
    from src.utils.signals import StoppedBySignalError, listening

    folder = None
    try:
        # Outermost, since PyTorch reports a dead worker wherever this process happens to be
        with (
            guard_workers(),
            joined(settings.device) as processes,
            listening() as stop,
            explained_single_images(settings.run),
            open_run_folder(settings.output, processes) as folder,
        ):
            components, state = build_components(settings, folder, processes, stop)
            if processes.is_first:
                folder.when_begun(prefix_errors("--path_output")(lambda: write_settings(folder.path, parser, args)))
            train(settings, components, state, processes, stop)
    except NonFiniteRunError as error:
        advice = "lower --lr, or give --precision float32"
        print(f"train.py: the loss is not finite in {error}; {advice}", file=sys.stderr)
        return NOT_FINITE
    except StoppedBySignalError as stopped:
        if not is_other_rank():
            print(f"train.py: stopped ({stopped}); {_way_on(settings, folder)}", file=sys.stderr)
        return stopped.status
    return 0


def _way_on(settings: TrainSettings, folder: RunFolder | None) -> str:
    """Say how a run that was stopped goes on."""
    if not settings.output.overwrite:
        return "resume with the same command and --resume"
    if folder is not None and folder.has_begun:
        return "resume with the same command and --resume in place of --overwrite"
    return "nothing was replaced; to start again, repeat the command"


def train(
    settings: TrainSettings,
    components: TrainComponents,
    state: TrainState,
    processes: Processes,
    stop: StopRequest,
) -> None:
    """Train to the end of the run, and summarise it."""
    from src.training.run_files import EVENTS
    from src.training.run_summary import print_summary, write_run_report
    from src.training.tensorboard import Logger
    from src.training.trainer import Trainer

    folder = components.folder
    events = folder.path / EVENTS if settings.output.tensorboard and processes.is_first else None
    with Logger(events, folder.record_events) as logger:
        logger.settings(components.identity.settings)
        folder.when_begun(logger.hold())
        trainer = Trainer(settings.run, components, state, processes, stop, logger)
        trainer.run()
    embedded = trainer.final_embeddings()
    if processes.is_first:
        print_summary(settings, components, trainer.state)
        write_run_report(settings, components, trainer.state, embedded)


if __name__ == "__main__":
    sys.exit(main())
