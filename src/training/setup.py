"""Build the parts of a training run from its settings."""

from __future__ import annotations

import functools
import secrets
from dataclasses import replace
from pathlib import Path

import torch

from src.checkpoint import ModelConfig
from src.config.train import LossSettings, OptimSettings, OutputSettings, TrainSettings
from src.config.train_flags import train_parser
from src.data.split import ZeroShotSplit
from src.data.transforms import eval_transform, train_transform
from src.embedding import LoaderConfig
from src.errors import prefix_errors
from src.loss_functions.SDL_loss import SDLLoss
from src.models import SDLModel
from src.options import Precision, Reading
from src.training.batches import BatchSource, FeatureBatches, FeatureOptions, ImageBatches, ImageOptions
from src.training.descriptions import describe_checkpoint, describe_start
from src.training.engine import Learner
from src.training.epoch_evaluation import EpochEvaluator
from src.training.feature_cache import FeatureSettings
from src.training.initial_model import build_model
from src.training.mixed_precision import DTYPES, check_compiler, choose_precision
from src.training.model_selection import TrainValSplit, split_training_set
from src.training.optim import MovingAverage, make_optimizer, make_schedule, parameter_groups
from src.training.progress import TrainState, is_finished
from src.training.resume import planned_epochs, read_state, restore_latest
from src.training.run_data import Data, load_data
from src.training.run_files import planned_files
from src.training.run_folder import RunFolder
from src.training.state import RunIdentity, StoredState, data_facts
from src.training.trainer import TrainComponents, steps_per_epoch
from src.utils.device import seed_everything
from src.utils.distributed import Processes, device_of
from src.utils.signals import StopRequest

MIN_BAD_IMAGES = 10  # unreadable images that are tolerated in small data sets


def build_components(
    settings: TrainSettings, folder: RunFolder, processes: Processes, stop: StopRequest
) -> tuple[TrainComponents, TrainState]:
    """Build everything that the trainer needs, and restore the state of a run that is resumed.

    The output folder is changed at the end, when no mistake in the settings is left to be found.

    Args:
        settings: of the run.
        folder: the output folder, which this run has locked.
        processes: the processes that train together.
        stop: request to stop.

    Raises:
        UserError: settings, data or files are wrong.
    """
    device = device_of(settings.device, processes)
    data = load_data(settings.data)
    stored = processes.from_first(_read_stored(folder, settings.output) if processes.is_first else None)
    seed = processes.from_first(secrets.randbelow(2**31) if settings.seed is None else settings.seed)
    seed = seed if stored is None else stored.progress.seed
    settings = replace(settings, seed=seed)
    seed_everything(seed)  # a resumed run creates the same random backbone again
    started_with = None if stored is None else stored.content["settings"]["precision"]
    precision = choose_precision(settings.precision, settings.autocast_enabled, device, started_with)
    train_val = split_training_set(data.training, settings.selection, seed)
    with prefix_errors("--model-path"):
        model, config = build_model(settings.model, data.metadata, device, processes)
    batch_size, workers = settings.run.batch_size, settings.data.workers
    loader = LoaderConfig(batch_size, workers, device, DTYPES[precision], processes, on_batch=stop.check)
    if processes.is_first:
        _check_folder(folder, settings, data, stored)
        print(describe_start(data, train_val, config, loader, settings.loss.unknown))
    source = _build_source(settings, data, model, config, train_val, loader)
    num_steps = steps_per_epoch(source.count, settings.run, processes)
    planned = planned_epochs(stored, settings.run.num_epochs)
    criterion = _loss(settings.loss, train_val.train.split)
    learner = build_learner(settings.optim, source.module, criterion, loader, planned * num_steps)
    if settings.model.freeze_backbone:
        learner = replace(learner, precision=None)  # a head alone is fast enough in float32
    identity = _identity(settings, precision, processes, data)
    state = TrainState(seed, planned_epochs=planned)
    if stored is not None:
        stored, state = restore_latest(stored, learner, identity, num_steps, processes)
        state.planned_epochs = planned
        if state.step == 0 and state.entries:
            run = settings.run
            state.finished = is_finished(state, len(state.entries), run.num_epochs, run.early_stopping)
    if processes.is_first:
        with prefix_errors("--path_output"):
            folder.start(resumed=None if stored is None else stored.path, entries=state.entries)
    split = train_val.trained(data.metadata.split)
    evaluator = EpochEvaluator(source, train_val, data.evaluation, split, settings.selection, device, processes)
    describe = functools.partial(describe_checkpoint, identity.settings, data.metadata, split, config)
    max_bad = _max_bad_images(settings, data)
    components = TrainComponents(model, learner, source, evaluator, folder, identity, describe, max_bad)
    return components, state


def _read_stored(folder: RunFolder, output: OutputSettings) -> StoredState | None:
    """Read the state to resume from; a restart by torchrun has no use for that of the run it is to replace."""
    if not output.resume or (output.overwrite and folder.awaits_first_state()):
        return None
    return read_state(folder.path, folder.foreign_states())


def _loss(settings: LossSettings, split: ZeroShotSplit) -> SDLLoss:
    return SDLLoss(
        weight=settings.var_weight,
        wordvec_array=split.word_vectors,
        normalization=settings.normalization,
        unknown=settings.unknown,
    )


def _identity(settings: TrainSettings, precision: Precision, processes: Processes, data: Data) -> RunIdentity:
    return RunIdentity(
        {**settings.flags, "precision": precision, "processes": processes.count},
        data_facts(data.training, data.metadata.split),
        defaults=vars(train_parser(None).parse_args([])),
    )


def _max_bad_images(settings: TrainSettings, data: Data) -> int:
    given = settings.run.max_bad_images
    return max(MIN_BAD_IMAGES, len(data.training.paths) // 10) if given is None else given


def _check_folder(folder: RunFolder, settings: TrainSettings, data: Data, stored: StoredState | None) -> None:
    """Check that the run replaces nothing but files of an earlier run, and none that it reads."""
    output, num_epochs = settings.output, settings.run.num_epochs
    planned = planned_files(output, settings.selection, num_epochs, settings.optim.ema is not None)
    inputs = [("--model-path", Path(settings.model.model_path))]
    if stored is None and settings.flags["recipe"] is not None:
        inputs.append(("--recipe", Path(settings.flags["recipe"])))
    names = set(planned)
    images = (*data.training.paths, *data.evaluation.paths)
    inputs += [("--data", path) for path in images if path.name in names]
    folder.check(
        planned,
        inputs,
        resumed=None if stored is None else stored.path,
        resume=output.resume,
        overwrite=output.overwrite,
    )


def _build_source(
    settings: TrainSettings,
    data: Data,
    model: SDLModel,
    config: ModelConfig,
    train_val: TrainValSplit,
    loader: LoaderConfig,
) -> BatchSource:
    """Create the source of batches: cached features for a frozen backbone, else augmented images."""
    exact = settings.data.exact_pictures
    reading = Reading(settings.data.max_pixels, settings.data.truncated)
    evaluation_as = eval_transform(config.image_size, config.interpolation, exact=exact, reading=reading)
    if not settings.model.freeze_backbone:
        train_as = train_transform(
            config.image_size,
            config.interpolation,
            cutout=settings.data.cutout,
            augmentation=settings.data.augmentation,
            exact=exact,
            reading=reading,
        )
        images = ImageOptions(train_as, evaluation_as, settings.seed or 0, settings.model.freeze_bn)
        return ImageBatches(model, train_val, data.evaluation, images, loader)
    of_features = FeatureSettings(
        config.model_name,
        config.image_size,
        config.interpolation,
        exact,
        dtype=loader.precision or torch.float32,
        device=loader.device.type,
        channels_last=settings.model.channels_last,
        inplace_abn=settings.model.inplace_abn,
    )
    cache = settings.model.feature_cache or data.metadata.folder / "feature_cache"
    options = FeatureOptions(evaluation_as, cache, of_features)
    return FeatureBatches(model, train_val, data.evaluation, options, loader)


def build_learner(
    settings: OptimSettings, module: torch.nn.Module, criterion: SDLLoss, loader: LoaderConfig, total_steps: int
) -> Learner:
    """Create optimiser, schedule and moving average of a module.

    Raises:
        UserError: the model cannot be compiled here.
    """
    device, processes = loader.device, loader.processes
    groups = parameter_groups(module, settings.lr, settings.weight_decay, backbone_scale=settings.lr_backbone_scale)
    optimizer = make_optimizer(settings.optimizer, groups, device)
    ddp = processes.wrap(module, device)
    forward = module if ddp is None else ddp
    if settings.compile:
        check_compiler()
        forward = torch.compile(forward)  # type: ignore[assignment]  # a module again
    return Learner(
        module,
        criterion.to(device),
        optimizer,
        make_schedule(settings.schedule, optimizer, total_steps, settings.warm_up),
        device,
        precision=loader.precision,
        clip_norm=settings.clip_grad_norm,
        average=None if settings.ema is None else MovingAverage(module, settings.ema),
        processes=processes.count,
        forward=forward,
        ddp=ddp,
    )
