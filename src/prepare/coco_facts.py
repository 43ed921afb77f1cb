"""Zero-shot splits of MS-COCO's 80 classes, and published counts that show whether files are complete."""

from __future__ import annotations

from src.data.coco import COCO_CLASSES
from src.data.labels import LabelMatrix
from src.data.split import columns_of

# "Zero-Shot Object Detection" (ECCV 2018), as in the released code's cls_ids.pickle; 15 classes are on neither side.
SEEN_48_17 = (
    "person", "bicycle", "car", "motorcycle", "train", "truck", "boat", "bench", "bird", "horse", "sheep", "bear",
    "zebra", "giraffe", "backpack", "handbag", "suitcase", "frisbee", "skis", "kite", "surfboard", "bottle", "fork",
    "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "pizza", "donut", "chair", "bed",
    "toilet", "tv", "laptop", "mouse", "remote", "microwave", "oven", "toaster", "refrigerator", "book", "clock",
    "vase", "toothbrush",
)  # fmt: skip
UNSEEN_48_17 = (
    "airplane", "bus", "cat", "dog", "cow", "elephant", "umbrella", "tie", "snowboard", "skateboard", "cup", "knife",
    "cake", "couch", "keyboard", "sink", "scissors",
)  # fmt: skip
# "Polarity Loss for Zero-shot Object Detection" (2018); all other classes are seen.
UNSEEN_65_15 = (
    "airplane", "train", "parking meter", "cat", "bear", "suitcase", "frisbee", "snowboard", "fork", "sandwich",
    "hot dog", "toilet", "mouse", "toaster", "hair drier",
)  # fmt: skip
# Name -> (seen labels, or None for all others; unseen labels).
SPLITS: dict[str, tuple[tuple[str, ...] | None, tuple[str, ...]]] = {
    "48_17": (SEEN_48_17, UNSEEN_48_17),
    "65_15": (None, UNSEEN_65_15),
}

TEST_LIST = "test list"  # in circulation for the 48/17 split: a sixth of val2014
NUM_IMAGES = {"train2014": 82_783, "val2014": 40_504, "train2017": 118_287, "val2017": 5_000, TEST_LIST: 6_392}
# Counts of the complete labels of COCO 2014 in the 48/17 split; annotations of crowds count as labels.
COUNTS_48_17 = {
    "train2014": {"images with a seen label": 75_406, "images with a seen and without any unseen label": 44_909},
    "val2014": {"images with an unseen label": 16_799},
    TEST_LIST: {"images with an unseen label": 2_729, "unseen labels": 3_295, "seen and unseen labels": 16_429},
}


def compare_images(release: str, found: int) -> list[str]:
    """Compare the number of images of a label file with the published number, where it is known."""
    if release not in NUM_IMAGES:
        return []
    return [_compare(f"{found:,} {release} images", found, NUM_IMAGES[release], "published")]


def compare_labels(release: str, targets: LabelMatrix) -> list[str]:
    """Compare labels [N, 80] with the counts of the 48/17 split, if they have as many images as the complete ones."""
    if len(targets) != NUM_IMAGES.get(release):
        return []
    seen, unseen = (
        targets.select_columns(columns_of(names, COCO_CLASSES, "48/17")).positives_per_image()
        for names in (SEEN_48_17, UNSEEN_48_17)
    )
    found = {
        "images with a seen label": int((seen > 0).sum()),
        "images with a seen and without any unseen label": int(((seen > 0) & (unseen == 0)).sum()),
        "images with an unseen label": int((unseen > 0).sum()),
        "unseen labels": int(unseen.sum()),
        "seen and unseen labels": int((seen + unseen).sum()),
    }
    return [
        _compare(f"{release}: {found[what]:,} {what}", found[what], known, "expected")
        for what, known in COUNTS_48_17.get(release, {}).items()
    ]


def _compare(finding: str, found: int, known: int, how: str) -> str:
    return f"{finding}, as {how}" if found == known else f"{finding}; {how}: {known:,}; is the file complete?"
