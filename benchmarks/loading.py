#!/usr/bin/env python3
"""Loading JPEG files into the model's input, compared with the released code's way and with decoding alone, the limit.

In the released code's (plain) way Pillow decodes the full image and resizes it, and ToTensor converts it; in training
with a cutout and the package's RandAugment in between. All ways read the same files on one thread, a few at a time, in
turns. ``bytes`` ends with uint8, which loaders pass on; the floats of a whole batch are computed at once.

Real photographs are found through SDL_SHARED (the folder that holds data/), as the tests find them: COCO, Corel5k, and
COCO's enlarged to 4000 x 3000 in a temporary folder. --images measures a folder of your own.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import benchmark_parser, median_ms, ratio, record, take_turns
from src.data.transforms import Cutout, as_floats, eval_transform, packaged_randaugment, train_transform
from src.utils.device import seed_everything

ROOT = Path(__file__).resolve().parent.parent
SIDE = 224
BATCH = 16
Way = Callable[[list[Path]], object]


def decode(paths: list[Path]) -> None:
    """Decode with libjpeg-turbo, through Pillow."""
    for path in paths:
        with Image.open(path) as image:
            image.load()


def plain(steps: list[Callable[[Image.Image], Image.Image]], interpolation: str = "bilinear") -> Way:
    """Return the released code's transform of each file, stacked."""
    side = transforms.Resize((SIDE, SIDE), interpolation=InterpolationMode(interpolation))
    transform = transforms.Compose([side, *steps, transforms.ToTensor()])
    return lambda paths: torch.stack([transform(Image.open(path).convert("RGB")) for path in paths])


def stacked(read: Callable[[Path], Tensor], *, floats: bool) -> Way:
    """Return a way that stacks ``read`` of each file; with ``floats`` they are converted together."""

    def run(paths: list[Path]) -> Tensor:
        images = torch.stack([read(path) for path in paths])
        return as_floats(images) if floats else images

    return run


def ways() -> dict[str, Way]:
    """Return all ways. The package of RandAugment is repaired when the transform is made."""
    training, exact_training = train_transform(SIDE), train_transform(SIDE, exact=True)
    packaged_randaugment()
    from randaugment import RandAugment

    return {
        "plain_eval": plain([]),
        "eval": stacked(eval_transform(SIDE).read_bytes, floats=True),
        "eval_bytes": stacked(eval_transform(SIDE).read_bytes, floats=False),
        "eval_exact": stacked(eval_transform(SIDE, exact=True).read_bytes, floats=True),
        "plain_eval_bicubic": plain([], "bicubic"),
        "eval_bicubic": stacked(eval_transform(SIDE, "bicubic").read_bytes, floats=True),
        "plain_train": plain([Cutout(0.5), RandAugment()]),
        "train": stacked(training.read_bytes, floats=True),
        "train_bytes": stacked(training.read_bytes, floats=False),
        "train_exact": stacked(exact_training.read_bytes, floats=True),
    }


def plain_of(way: str) -> str:
    """Return the plain way that a way is compared with."""
    if way.endswith("bicubic"):
        return "plain_eval_bicubic"
    return "plain_train" if "train" in way else "plain_eval"


def psnr(paths: list[Path], interpolation: str) -> tuple[float, float, int]:
    """Compare the eval transform with the plain one: lowest and median PSNR in dB, number of bit-identical images."""
    fast, exact = eval_transform(SIDE, interpolation), plain([], interpolation)
    errors = [float((fast.read(path) - exact([path])[0]).double().square().mean()) for path in paths]
    different = [-10 * torch.tensor(error).log10().item() for error in errors if error > 0]
    if not different:
        return float("inf"), float("inf"), len(errors)
    return min(different), statistics.median(different), len(errors) - len(different)


class Round:
    """The files that all ways read in a round: the next batch of them, cyclically."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths, self.number, self.current = paths, 0, paths[:BATCH]

    def decode(self) -> None:
        """Begin a round, and decode its files."""
        self.number += 1
        first = self.number * BATCH
        self.current = [self.paths[(first + place) % len(self.paths)] for place in range(len(self.current))]
        decode(self.current)

    def transform(self, way: Way) -> None:
        """Run a way with the same random draws for all: operations of RandAugment differ twentyfold in time."""
        seed_everything(self.number)
        way(self.current)


def measure(name: str, paths: list[Path], repeats: int) -> list[dict[str, object]]:
    """Measure all ways; return a row per way."""
    files = Round(paths)
    runs: dict[str, Callable[[], object]] = {"decode": files.decode}
    runs |= {label: partial(files.transform, way) for label, way in ways().items()}
    seconds = take_turns(runs, repeats)
    with Image.open(paths[0]) as image:
        size = "x".join(map(str, image.size))
    rows = [row_of(name, way, seconds, len(files.current), size) for way in runs]
    for row in rows:
        if row["way"] in ("eval", "eval_bicubic"):
            lowest, middle, same = psnr(paths, "bicubic" if row["way"] == "eval_bicubic" else "bilinear")
            row |= {"psnr_db_lowest": _finite(lowest), "psnr_db_median": _finite(middle), "same_bits": same}
            row["compared"] = len(paths)
    return rows


def row_of(name: str, way: str, seconds: Mapping[str, list[float]], batch: int, size: str) -> dict[str, object]:
    """Return the time per image of a way, its speed-up over the plain way, and its ratio to decoding."""
    return {
        "images": name,
        "size": size,
        "way": way,
        "ms_per_image": round(median_ms(seconds[way]) / batch, 3),
        "times_plain": round(ratio(seconds, plain_of(way), way), 2),
        "of_decode_rate": round(ratio(seconds, "decode", way), 2),
    }


def _finite(number: float) -> float | None:
    return round(number, 1) if number != float("inf") else None


def enlarged(paths: list[Path], folder: Path) -> list[Path]:
    """Enlarge images to 4000 x 3000, with the grain that cameras add and resizing does not."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for path in paths:
        with Image.open(path) as image:
            large = transforms.functional.pil_to_tensor(
                image.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC)
            )
        grain = torch.randn((1, 3000, 4000), generator=generator).mul_(4)
        found.append(folder / path.name)
        grainy = (large + grain).clamp_(0, 255).to(torch.uint8)
        transforms.functional.to_pil_image(grainy).save(found[-1], quality=90)
    return found


def main() -> None:
    """Measure."""
    flags = benchmark_parser(__doc__)
    flags.add_argument("--images", type=Path, metavar="DIR", help="folder of JPEG files, instead of the three sets")
    flags.add_argument("--repeats", type=int, default=15)
    args = flags.parse_args()
    torch.set_num_threads(1)
    if args.images is not None:
        record("loading", measure(args.images.name, sorted(args.images.rglob("*.jp*g")), args.repeats), args.output)
        return
    data = Path(os.environ.get("SDL_SHARED", ROOT.parent / "shared")) / "data"
    coco = sorted((data / "coco_tiny").glob("*2017/*.jpg"))
    corel = sorted((data / "corel5k" / "images").rglob("*.jpeg"))[:400]
    if not coco or not corel:
        flags.error(f"no photographs in {data}; set SDL_SHARED, or give --images")
    with tempfile.TemporaryDirectory() as folder:
        large = enlarged(coco[:6], Path(folder))
        rows = [*measure("coco", coco, args.repeats), *measure("corel5k", corel, args.repeats)]
        rows += measure("coco_enlarged", large, max(3, args.repeats // 3))
    record("loading", rows, args.output)


if __name__ == "__main__":
    main()
