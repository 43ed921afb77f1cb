#!/usr/bin/env python3
"""The parts of the method, one at a time: the number of principal vectors M, lambda, the loss's normalisation.

Every row is a training run that differs from the recipe in one setting only.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reproduce.common import Stages, add_data_flags, prepared, run_stages, split_arguments, trained
from reproduce.experiments import EXPERIMENTS
from reproduce.tables import SETTINGS, Published, differences, markdown_table, read_published, results, write_text
from src.config.arguments import ArgumentParser, positive_int
from src.config.recipes import parse_with_recipe
from src.config.train_flags import lambda_or_none, train_parser
from src.errors import UserError
from src.utils.files import write_json

NAME = "reproduce/ablation_rows.py"
DATA_SETS = ("nus_wide", "coco_48_17", "corel5k")
VARIED = {"num_rows": "M", "var_weight": "lambda", "normalization": "normalisation"}  # setting -> its column


def parser() -> ArgumentParser:
    """Return the parser: a sub-command per data set."""
    flags = ArgumentParser(prog=NAME, description=__doc__, epilog="Flags of train.py go after --.")
    sub_commands = flags.add_subparsers(dest="experiment", required=True, metavar="DATA_SET")
    for name in DATA_SETS:
        own = sub_commands.add_parser(name, help=read_published(name).title, description=__doc__)
        add_data_flags(own, EXPERIMENTS[name])
        own.set_defaults(output=Path("outputs") / "reproduce" / f"ablation_{name}")
        own.add_argument("--seed", type=int, default=0, metavar="N", help="random seed of the training runs")
        own.add_argument("--rows", type=positive_int, nargs="*", default=[1, 2, 4, 7], metavar="M", help="values of M")
        own.add_argument(
            "--lambdas",
            type=lambda_or_none,
            nargs="*",
            default=[None, 0.01, 0.1, 0.3],
            metavar="LAMBDA",
            help="values of lambda; none leaves the regulariser out",
        )
    return flags


def variants(recipe: str, rows: Sequence[int], lambdas: Sequence[float | None]) -> dict[str, dict[str, Any]]:
    """Return name -> settings of each run: the recipe's first, then those that differ from it in one setting."""
    plain = parse_with_recipe(train_parser(None), ["--recipe", recipe])
    base = {setting: getattr(plain, setting) for setting in VARIED}
    changes: list[tuple[str, Sequence[Any]]] = [
        ("num_rows", rows),
        ("var_weight", lambdas),
        ("normalization", ("official", "paper")),
    ]
    found = {"recipe": base}
    for setting, values in changes:
        for value in values:
            if value != base[setting]:
                found[f"{setting}_{'none' if value is None else value}"] = {**base, setting: value}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return its exit status, that of the failed stage if one failed."""
    return run_stages(NAME, _main, argv)


def _main(argv: Sequence[str]) -> int:
    own, for_train = split_arguments(argv)
    args = parser().parse_args(own)
    recipe = args.experiment
    varied = [setting for setting in VARIED if any(_names(argument, setting) for argument in for_train)]
    if varied:
        raise UserError(f"--{varied[0]} after --: the script varies it; give --rows and --lambdas before the --")
    parse_with_recipe(train_parser(None), ["--recipe", recipe, *for_train])  # before hours of preparing
    published = read_published(recipe)
    output = Path(os.path.abspath(args.output))
    data_flags = prepared(Stages(output), EXPERIMENTS[recipe], args)
    found = {}
    runs = variants(recipe, args.rows, args.lambdas)
    for name, settings in runs.items():
        changed = [f"--{key}={'none' if value is None else value}" for key, value in settings.items()]
        run = trained(Stages(output / name), recipe, published, data_flags, args.seed, [*for_train, *changed])
        found[name] = results(published, recipe, [run])
    text = as_markdown(published, runs, found)
    write_json(output / "ablation.json", {"variants": runs, "results": found})
    write_text(output / "ablation.md", text)
    print(f"\n{text}\n\nwritten to {output / 'ablation.md'} and {output / 'ablation.json'}")
    return 0


def _names(argument: str, setting: str) -> bool:
    """Return whether an argument is the flag of a setting."""
    return argument.partition("=")[0].replace("-", "_") == f"__{setting}"


def as_markdown(
    published: Published, runs: Mapping[str, Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> str:
    """Format the table of all runs, at their last epoch, below the reference for the recipe's settings."""
    keys = list(published.metrics())
    titles = [f"{SETTINGS[setting]} {metric}" for setting, _, metric in (key.partition(".") for key in keys)]
    rows = [[published.whose, "", "", "", *(f"{value:g}" for value in published.metrics().values())]]
    for name, settings in runs.items():
        of_run = {row["key"]: next(iter(row["measured"].values())) for row in found[name]["rows"]}
        measured = [of_run[key] for key in keys]
        cells = ["none" if settings[setting] is None else f"{settings[setting]}" for setting in VARIED]
        rows.append([name, *cells, *("-" if value is None else f"{value:.2f}" for value in measured)])
    recipe = found["recipe"]
    reasons = differences(recipe)
    notes = [
        f"- {published.whose.capitalize()}, for the recipe's settings: {published.source}.",
        f"- Protocol: {published.images}; last epoch; one run per row, seed {recipe['seeds'][0]}. One run does not "
        "tell a small difference from chance.",
        *([f"- **Not the setting of the reference:** {'; '.join(reasons)}."] if reasons else []),
    ]
    table = markdown_table(["run", *VARIED.values(), *titles], rows)
    return "\n".join([f"# {published.title}: the parts of the method", "", table, "", *notes])


if __name__ == "__main__":
    sys.exit(main())
