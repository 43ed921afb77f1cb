"""Kill every writer of the project on its way, and check what it leaves and what the next run makes of it.

``python -m tests.kills`` kills each writer before calls of the system that change files, spread evenly over all calls
of a run, and at random moments. After each kill:

- every file is whole, old or new, and no file of the user's is gone or changed;
- the folder of a training run holds the earlier run with all its files, or a state of the new one to resume from;
- the documented continuation (``--resume``, or the same command again) ends as a run that nobody disturbed: the same
  files with the same content, nothing doubled, nothing left hidden.

Every third continuation is killed too, before another one ends the matter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from src.data.coco import read_coco_labels
from src.data.metadata import load_metadata
from src.training.resume import read_state
from src.training.run_files import STATE
from src.utils.digest import SUFFIX, check_digest
from src.utils.manifest import NAME as MANIFEST
from src.utils.outputs import NAME as OUTPUTS
from tests.helpers import save_tiny, tiny_model, write_images
from tests.kill_helpers import Ended, KillableRuns
from tests.prepare_helpers import prepare_sample
from tests.script_helpers import PLAIN, TINY

# Script -> modules that it imports late, and which the process that forks imports once
_IMPORTS = {
    "infer": ("src.inference.run", "src.visualize", "src.checkpoint.own", "jinja2", "pyarrow", "pyexiv2"),
    "validate": ("src.validation", "src.visualize", "src.checkpoint.own"),
    "train": ("src.training.setup", "src.training.trainer", "src.run_report", "torch.utils.tensorboard"),
    "export": ("src.exported.graph", "onnx", "onnxscript", "onnxruntime", "torch.onnx"),
    "prepare_data": ("src.prepare.run", "src.prepare.sample"),
    "src.checkpoint.__main__": ("src.checkpoint.average",),
}
_HIDDEN = re.compile(r"(^|/)\.sdl-")
_GROWING = re.compile(r"\.record\.jsonl$|^run/tensorboard/")
# These go before the file that they belong to is replaced, or, with train.py --overwrite, when the new run has a state
_FLEETING = re.compile(rf"{re.escape(SUFFIX)}$|^vectors\.txt$|^run/")
# An epoch replaces the files of the one before; split.json may name the new files in the hidden folder for a moment
_VERSIONS = re.compile(r"^run/|^data/split\.json$")

# Files of the user's beside the outputs
_MINE = ("notes.txt", "data/notes.txt", "data/images/photo.jpg", "run/notes.txt", "run/best.ckpt.bak")


@dataclass(frozen=True)
class Writer:
    """A command that writes files.

    Attributes:
        target: the function to run.
        argv: its arguments; ``{in}`` and ``{home}`` stand for the folders of inputs and of outputs.
        before: arguments of runs that made what lies there already.
        resume: flags to add to ``argv`` for the continuation.
        finish: flags to add where the same command answers that it needs them.
        status: exit status of an undisturbed run.
        check: checks the folder of a killed run.
        decides: file that says, by its content, whether the old outputs are there, all of them, or the new ones.
    """

    target: str
    argv: str
    before: Sequence[str] = ()
    resume: str = ""
    finish: str = ""
    status: int = 0
    check: Callable[[Path], None] = field(default=lambda home: None)
    decides: str = ""


def _readable(home: Path) -> None:
    """Check that a reader of the metadata folder finds a data set whose files belong together."""
    folder = home / "data"
    if (folder / "split.json").exists():
        metadata = load_metadata(folder)
        assert metadata.train is not None
        assert metadata.val is not None
        for path in (metadata.train, metadata.val):
            images = read_coco_labels(path, metadata.split.labels)
            assert all((metadata.image_root / name).exists() for name in images.file_names)
        assert f"{len(images.file_names):,} images" in (metadata.train.parent / "report.txt").read_text()


def _resumable(home: Path) -> None:
    """Check that the folder of a run holds one that can be resumed, and never the earlier one's backup alone."""
    stored = read_state(home / "run")
    assert stored is not None
    assert stored.progress.seed == 3 or stored.path.name == STATE


_TRAIN = " ".join(
    map(str, ("--data {in}/data", *TINY, *PLAIN, "-b 12 --num-epochs 2 --save-epochs 1 --keep 1 --save-steps 1"))
)
_INFER = "--model_path {in}/0.ckpt --pic_path {home}/photos -j 0 --batch_size 1 --top_k 2 --quiet"
_RECORDED = (
    f"{_INFER} --json {{home}}/tags.json --csv {{home}}/tags.csv --parquet {{home}}/tags.parquet --annotate "
    "--path_output {home}/drawn --write_keywords {home}/copies --write_xmp"
)
_SAMPLE = "sample --train-images {train} --val-images 2 --output {{home}}/data"
_VALIDATE = (
    "--model-path {{in}}/0.ckpt --metadata {{in}}/data -j 0 --fit-thresholds {{home}}/fitted.ckpt "
    "--json {{home}}/metrics.json --fit-share {share}"
)
_VECTORS = "word-vectors --tags {{in}}/{tags}.txt --word-vectors {{in}}/data --output {{home}}/vectors.npy"
_EXPORT = "--model_path {{in}}/{model}.ckpt --output {{home}}/model.onnx"
_AVERAGE = "average --output {{home}}/mean.ckpt {{in}}/0.ckpt {{in}}/{model}.ckpt"

WRITERS: Mapping[str, Writer] = {
    "infer": Writer("infer:main", _RECORDED, resume="--resume", status=1),
    "infer-again": Writer("infer:main", f"{_RECORDED} --top_k 3", (_RECORDED,), finish="--resume", status=1),
    "infer-page": Writer(
        "infer:main",
        f"{_INFER} --html {{home}}/page.html --no_picture",
        (f"{_INFER} --html {{home}}/page.html --no_picture --top_k 1",),
        status=1,
    ),
    "prepare": Writer("prepare_data:main", _SAMPLE.format(train=4), finish="--overwrite", check=_readable),
    "prepare-overwrite": Writer(
        "prepare_data:main",
        _SAMPLE.format(train=3) + " --overwrite --seed 5",
        (_SAMPLE.format(train=4) + " --official",),
        check=_readable,
    ),
    "word-vectors": Writer("prepare_data:main", _VECTORS.format(tags="few"), finish="--overwrite"),
    "word-vectors-overwrite": Writer(
        "prepare_data:main", _VECTORS.format(tags="few") + " --overwrite", (_VECTORS.format(tags="more"),)
    ),
    "validate": Writer("validate:main", _VALIDATE.format(share=0.5)),
    "validate-again": Writer("validate:main", _VALIDATE.format(share=0.5), (_VALIDATE.format(share=0.6),)),
    "train": Writer(
        "train:main", f"{_TRAIN} --seed 3 --path_output {{home}}/run --ema 0.9 --tensorboard", resume="--resume"
    ),
    "train-frozen": Writer(
        "train:main",
        f"{_TRAIN} --seed 3 --path_output {{home}}/run --freeze-backbone --feature-cache {{home}}/cache",
        resume="--resume",
    ),
    "train-overwrite": Writer(
        "train:main",
        f"{_TRAIN} --seed 3 --path_output {{home}}/run --overwrite",
        (f"{_TRAIN} --seed 4 --path_output {{home}}/run --ema 0.9 --tensorboard",),
        check=_resumable,
        decides=f"run/{STATE}",
    ),
    "export": Writer("export:main", _EXPORT.format(model=0)),
    "export-again": Writer("export:main", _EXPORT.format(model=1), (_EXPORT.format(model=0),)),
    "average": Writer("src.checkpoint.__main__:main", _AVERAGE.format(model=1), (_AVERAGE.format(model=0),)),
}


def content_of(path: Path, name: str) -> object:
    """Return what two runs of one command have in common of a file; raises an error if it is not whole."""
    if name.endswith((".ckpt", ".pt")):
        assert check_digest(path)[1] is not False, f"{name} is not what its side file says"
        return _summary(torch.load(path, weights_only=True))
    if _GROWING.search(name) and name.endswith(".record.jsonl"):
        lines = [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]
        return sorted(json.dumps(line["result"]) for line in lines if "result" in line)
    if name.endswith("log.jsonl"):
        return [{**json.loads(line), "seconds": 0} for line in path.read_text().splitlines()]
    if name.endswith("settings.toml"):
        return [line for line in path.read_text().splitlines() if not line.startswith(("resume", "overwrite"))]
    content = path.read_bytes()
    if name.endswith("report.html"):  # which says how long the epochs took
        assert content.rstrip().endswith(b"</html>"), f"{name} is cut"
        return None
    # The checkpoint has been compared with its side file; one that was resumed says so, and has another digest
    if Path(name).name in (MANIFEST, OUTPUTS) or _GROWING.search(name) or name.endswith(SUFFIX):
        return None
    return hashlib.sha256(content).hexdigest()


def _summary(value: Any) -> Any:
    """Return nested containers as text, with digests of tensors and without durations."""
    if isinstance(value, torch.Tensor):
        value = value.contiguous()
        return f"{value.dtype} {list(value.shape)} {hashlib.sha256(value.view(-1).numpy().tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return {key: _summary(inner) for key, inner in value.items() if key not in ("seconds", "resume", "overwrite")}
    if isinstance(value, (list, tuple)):
        return [_summary(inner) for inner in value]
    return repr(value)


def contents(folder: Path) -> dict[str, object]:
    """Return name -> :func:`content_of` all files below a folder, and None for empty sub-folders."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            if not any(path.iterdir()):
                found[f"{name}/"] = None
        elif _GROWING.search(name) and name.startswith("run/"):  # every run begins a file of its own
            found[f"{Path(name).parent.as_posix()}/*"] = None
        else:
            found[name] = content_of(path, name)
    return found


class Kills:
    """Kill one writer again and again.

    Args:
        writer: the writer.
        runs: starts it.
        folder: holds ``in``, the inputs; the rest is made here.
    """

    def __init__(self, writer: Writer, runs: KillableRuns, folder: Path) -> None:
        self._writer, self._runs = writer, runs
        self._in, self._home, self._start = folder / "in", folder / "home", folder / "start"
        for place in (self._home, self._start):
            shutil.rmtree(place, ignore_errors=True)
        self.kills = 0
        self._home.mkdir()
        for argv in writer.before:
            write_photos(self._home)
            assert self._run(argv).status == writer.status, self._runs.errors()
        write_photos(self._home)
        self._mine = {name for name in _MINE if (self._home / name).parent.is_dir()}
        for name in self._mine:
            (self._home / name).write_text("mine")
        shutil.copytree(self._home, self._start)
        self._old = contents(self._home)
        self._whole = self._run(writer.argv)
        assert self._whole.status == writer.status, self._runs.errors()
        self._new = contents(self._home)
        assert all(self._new[name] == self._old[name] for name in self._mine)

    def before_calls(self, count: int, chance: random.Random) -> Iterator[str]:
        """Kill the run before some of its calls, one of each stretch of them; yields what is wrong afterwards."""
        calls = self._whole.calls
        count = min(count, calls)
        for number in range(count):
            call = chance.randint(1 + number * calls // count, (number + 1) * calls // count)
            yield from self._kill(number, f"call {call} of {calls}", kill_before=call)

    def at_moments(self, count: int, chance: random.Random) -> Iterator[str]:
        """Kill the run at some moments."""
        for number in range(count):
            moment = chance.uniform(0, self._whole.seconds)
            yield from self._kill(number, f"{moment:.3f} s of {self._whole.seconds:.3f} s", kill_after=moment)

    def _kill(self, number: int, where: str, **kill: float) -> Iterator[str]:
        shutil.rmtree(self._home)
        shutil.copytree(self._start, self._home)
        ended = self._run(self._writer.argv, **kill)
        self.kills += ended.is_killed
        if not ended.is_killed and ended.status != self._writer.status:
            yield f"{where}: status {ended.status}: {self._runs.errors()}"
            return
        problems = list(self._differences())
        if number % 3 == 2:
            ended = self._continue(kill_before=max(1, self._whole.calls // (number + 1)))
            self.kills += ended.is_killed
            problems += [f"continuation: {problem}" for problem in self._differences()]
        ended = self._continue()
        if ended.status != self._writer.status:
            problems.append(f"the continuation ends with status {ended.status}: {self._runs.errors()}")
        else:
            problems += self._left_over()
        yield from (f"{where}: {problem}" for problem in problems)

    def _run(self, argv: str, **kill: Any) -> Ended:
        return self._runs.run(self._writer.target, *argv.format(**{"in": self._in}, home=self._home).split(), **kill)

    def _continue(self, **kill: Any) -> Ended:
        writer, argv = self._writer, self._writer.argv
        if writer.decides and not self._holds_old():
            argv = argv.replace("--overwrite", "--resume")
        ended = self._run(f"{argv} {writer.resume}", **kill)
        if ended.status == 2 and writer.finish and writer.finish in self._runs.errors():
            ended = self._run(f"{writer.argv} {writer.finish}", **kill)
        return ended

    def _holds_old(self) -> bool:
        name = self._writer.decides
        path = self._home / name
        return path.exists() and content_of(path, name) == self._old[name]

    def _differences(self) -> Iterator[str]:
        """Yield what is neither old nor new after a kill."""
        try:
            self._writer.check(self._home)
            now = contents(self._home)
        except Exception as error:  # noqa: BLE001 -- whatever a reader says is a finding
            yield f"{type(error).__name__}: {error}"
            return
        if self._writer.decides and self._holds_old():
            changed = {name for name in now.keys() | self._old.keys() if now.get(name) != self._old.get(name)}
            yield from (f"{name} is not the old one" for name in sorted(changed) if not _HIDDEN.search(name))
        for name in self._old.keys() & self._new.keys():
            may_go = _FLEETING.search(name) and name not in self._mine
            if name not in now and not may_go and not name.endswith(("/", "/*")):
                yield f"{name} is gone"
        for name, content in now.items():
            if _HIDDEN.search(name) or _GROWING.search(name) or name.endswith("/"):
                continue
            if _VERSIONS.search(name) and name not in self._mine:
                continue  # content_of has found it whole
            known = [side[name] for side in (self._old, self._new) if name in side]
            if content not in known:
                yield f"{name} is neither old nor new" if known else f"{name} is left over"

    def _left_over(self) -> Iterator[str]:
        """Yield what differs from an undisturbed run in the end."""
        now = contents(self._home)
        for name in sorted(now.keys() | self._new.keys()):
            if name not in now:
                yield f"{name} is missing in the end"
            elif name not in self._new:
                yield f"{name} is left in the end"
            elif now[name] != self._new[name]:
                yield f"{name} differs in the end"


def write_photos(home: Path) -> None:
    """Write the images of a user, one of them broken, and one with an XMP file of another program."""
    shutil.rmtree(home / "photos", ignore_errors=True)
    write_images(home / "photos", 3, broken=(1,))
    (home / "photos" / "2.png.xmp").write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about=""/></rdf:RDF></x:xmpmeta>'
    )


def write_inputs(folder: Path) -> None:
    """Write what the writers read."""
    folder.mkdir()
    prepare_sample(folder / "data", num_train=24, num_val=8)
    split = load_metadata(folder / "data").split
    for number in (0, 1):
        model = tiny_model(seed=number, wordvec_dim=split.wordvec_dim)
        save_tiny(folder / f"{number}.ckpt", model, split=split)
    for name, count in (("few", 3), ("more", 6)):
        (folder / f"{name}.txt").write_text("".join(f"{label}\n" for label in split.labels[:count]))


@contextmanager
def killable(folder: Path, names: Iterable[str]) -> Iterator[KillableRuns]:
    """Write the inputs to a folder, and start the process that forks, for :class:`Kills` of some writers."""
    write_inputs(folder / "in")
    scripts = dict.fromkeys(WRITERS[name].target.partition(":")[0] for name in names)
    with KillableRuns(*(module for script in scripts for module in (script, *_IMPORTS[script]))) as runs:
        yield runs


def main(argv: Sequence[str] | None = None) -> int:
    """Print what is wrong; returns 1 if anything is."""
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("writers", nargs="*", metavar="WRITER", help=f"of: {', '.join(WRITERS)} (default: all)")
    parser.add_argument("--calls", type=int, default=40, metavar="N", help="calls to kill each writer before")
    parser.add_argument("--moments", type=int, default=20, metavar="N", help="random moments to kill each writer at")
    parser.add_argument("--seed", type=int, default=0, metavar="SEED", help="random seed of the moments")
    args = parser.parse_args(argv)
    if unknown := [name for name in args.writers if name not in WRITERS]:
        parser.error(f"no such writer: {', '.join(unknown)}")
    names, failures, kills = args.writers or list(WRITERS), 0, 0
    with tempfile.TemporaryDirectory() as folder, killable(Path(folder), names) as runs:
        for name in names:
            one = Kills(WRITERS[name], runs, Path(folder))
            chance = random.Random(args.seed)
            problems = [*one.before_calls(args.calls, chance), *one.at_moments(args.moments, chance)]
            print(f"{name}: {one.kills} kills, {len(problems)} problems", flush=True)
            for problem in problems:
                print(f"  {problem}", flush=True)
            failures, kills = failures + len(problems), kills + one.kills
    print(f"{kills} kills of {len(names)} writers, {failures} problems")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
