"""The experiments behind the tables: the data set of each, and what prepare_data.py needs to read it."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Experiment:
    """A table of a paper.

    Attributes:
        name: of its entry in published.toml and of its script.
        source: sub-command of prepare_data.py.
        data_help: content of the ``--data`` folder.
        flags: flags of that sub-command that the script has too.
        defaults: defaults of the script's flags, where they are not those of prepare_data.py.
        fixed: further arguments of that sub-command.
        images_in_data: whether the images lie below ``--data``, unless ``--images`` names another folder.
        recipe_of: the experiment whose recipe it shares, if it has none of its own.
    """

    name: str
    source: str
    data_help: str
    flags: tuple[str, ...] = ("missing_pictures",)
    defaults: dict[str, str] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()
    images_in_data: bool = False
    recipe_of: str | None = None

    @property
    def recipe(self) -> str:
        """Return the name of the recipe of the published setting."""
        return self.recipe_of or self.name


COCO_HELP = "folder of MS-COCO, or a part of it (annotations/, train2014/, val2014/)"

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            "nus_wide",
            "nus-wide",
            "folder with the text files of NUS-WIDE (ImageList, NUS_WID_Tags, Groundtruth, ConceptsList) and the "
            "images",
            images_in_data=True,
        ),
        Experiment(
            "open_images",
            "open-images",
            "folder with the label files and class lists of Open Images v4 and the images",
            images_in_data=True,
        ),
        Experiment(
            "coco_48_17",
            "coco",
            COCO_HELP,
            flags=("year", "test_ids", "missing_pictures"),
            defaults={"year": "2014"},
        ),
        Experiment(
            "coco_65_15",
            "coco",
            COCO_HELP,
            flags=("year", "missing_pictures"),
            defaults={"year": "2014"},
            fixed=("--split", "65_15"),
            recipe_of="coco_48_17",
        ),
        Experiment(
            "corel5k",
            "corel5k",
            "folder of Corel5k (words, training_label, test_label, images/)",
            flags=(),
            defaults={"missing": "drop"},  # 73 of the 374 words are not in the NUS-WIDE vocabulary
            fixed=("--forms", "strict"),
        ),
    )
}
