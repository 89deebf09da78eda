"""Generated world in the layouts of real datasets, so that readers, trainers and scorers run on it unchanged.

Below the root: `video_datas/mevis/<split>` (JPEGs, `meta_expressions.json`, `mask_dict.json`),
`video_datas/rvos` (Ref-YouTube-VOS: JPEGs, palette PNGs, `meta.json`, `meta_expressions/<split>/`),
`VTS-CoT/mevis.json`, `VideoSEG-O3-RL/rl_mevis_data.json`, and `world-<split>.json` which says what was
written (benchmarks §3.1, §3.2, §4.2; design §5).
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from videoseg.data.world.clip import write_clip
from videoseg.data.world.files import ClipWork, mevis_home, replace_file, video_name, ytvos_home
from videoseg.data.world.parallel import Progress, map_seeds
from videoseg.data.world.plan import Plan
from videoseg.data.world.records import (
    Record,
    mevis_video,
    rl_item,
    trace_item,
    ytvos_objects,
    ytvos_video,
)
from videoseg.data.world.sampler import WorldSpec, draw_sample
from videoseg.errors import OutputError

Entry = tuple[str | None, Any]


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: annotation files by layout, samples by layout, and samples by family."""

    root: Path
    files: tuple[Path, ...]
    counts: dict[str, int]
    families: dict[str, int]


def write_layouts(
    root: Path | str,
    plan: Plan,
    *,
    workers: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Written:
    """Write the clips of a plan; the bytes do not depend on `workers`.

    An interrupted call that is made again goes on with the clips that are missing; annotation files appear
    when all clips are there. Ref-YouTube-VOS knows one object per expression: samples with none or several
    are left out of it. Raises OutputError where the split was written with another plan (unless
    `overwrite`) or the place cannot be written.
    """
    root = Path(root)
    try:
        done = root / f"world-{plan.split}.json"
        if _is_written(done, plan, overwrite):
            return _read_summary(done, root)
        parts = _open_parts(root, plan, overwrite)
        for _ in map_seeds(ClipWork(root, parts, plan), plan.seeds, workers=workers, progress=progress):
            pass
        summary = _Assembly(root, parts, plan).write()
        replace_file(done, json.dumps({**plan.to_json(), **summary}, indent=2) + "\n")
        shutil.rmtree(parts)
    except OSError as error:
        raise OutputError(f"{root}: cannot be written ({error}); check the folder and the disk") from error
    return _read_summary(done, root)


def write_videos(
    folder: Path | str,
    seeds: Sequence[int],
    spec: WorldSpec | None = None,
    family: str | None = None,
    *,
    workers: int = 1,
    progress: Progress | None = None,
) -> list[Path]:
    """Write each clip as an H.264 file beside its JSON truth; paths in the order of the seeds."""
    work = partial(_write_video, folder=Path(folder), spec=spec or WorldSpec(), family=family)
    return list(map_seeds(work, seeds, workers=workers, progress=progress))


def _write_video(seed: int, folder: Path, spec: WorldSpec, family: str | None) -> Path:
    return write_clip(draw_sample(seed, spec, family), folder)


def _is_written(done: Path, plan: Plan, overwrite: bool) -> bool:
    """Whether this very plan is complete; a different one must be overwritten knowingly."""
    if not done.is_file() or overwrite:
        return False
    if _same_plan(done, plan):
        return True
    raise OutputError(
        f"{done}: the split {plan.split} was written with other settings; give another folder or overwrite"
    )


def _same_plan(path: Path, plan: Plan) -> bool:
    try:
        stored = json.loads(path.read_text())
    except ValueError:
        return False
    wanted = json.loads(json.dumps(plan.to_json()))
    return isinstance(stored, dict) and all(stored.get(key) == value for key, value in wanted.items())


def _open_parts(root: Path, plan: Plan, overwrite: bool) -> Path:
    """The folder of finished clips' records; those of another plan are removed if `overwrite`."""
    parts = root / f".world-{plan.split}"
    stated = parts / "plan.json"
    if parts.is_dir() and not _same_plan(stated, plan):
        if not overwrite:
            raise OutputError(
                f"{parts}: an unfinished run with other settings; finish it, give another folder or overwrite"
            )
        shutil.rmtree(parts)
    parts.mkdir(parents=True, exist_ok=True)
    replace_file(stated, json.dumps(plan.to_json()) + "\n")
    return parts


@dataclass(frozen=True)
class _Assembly:
    """Joins the records of all clips into the annotation files, reading one record at a time."""

    root: Path
    parts: Path
    plan: Plan

    def write(self) -> dict[str, Any]:
        """Write all files of the plan; the summary for `world-<split>.json`."""
        for path, braces, entries in self._files():
            stream(path, braces, entries())
        families = Counter(item["family"] for _, item, _ in self._items())
        counts = dict.fromkeys(self.plan.layouts, len(self.plan.seeds))
        if "ref-ytvos" in counts:
            counts["ref-ytvos"] = sum(1 for _ in self._single())
        files = [str(path.relative_to(self.root)) for path, _, _ in self._files()]
        return {"files": files, "counts": counts, "families": dict(sorted(families.items()))}

    def _files(self) -> list[tuple[Path, tuple[str, str], Callable[[], Iterator[Entry]]]]:
        """Path, opening and closing text, and entries of every annotation file."""
        root, plan, videos = self.root, self.plan, ('{"videos":{', "}}")
        files: list[tuple[Path, tuple[str, str], Callable[[], Iterator[Entry]]]] = []
        if plan.mevis:
            home = mevis_home(root, plan)
            files += [
                (home / "meta_expressions.json", videos, self._mevis),
                (home / "mask_dict.json", ("{", "}"), self._masks),
            ]
        if "ref-ytvos" in plan.layouts:
            home = ytvos_home(root, plan)
            expressions = home.parent / "meta_expressions" / plan.split / "meta_expressions.json"
            files += [(home / "meta.json", videos, self._objects), (expressions, videos, self._ytvos)]
        if "vts-cot" in plan.layouts:
            files.append((root / "VTS-CoT" / "mevis.json", ("[", "]"), self._traces))
        if "rl" in plan.layouts:
            files.append((root / "VideoSEG-O3-RL" / "rl_mevis_data.json", ("[", "]"), self._prompts))
        return files

    def _items(self) -> Iterator[tuple[str, Record, int]]:
        """Video name, record and first object number of every clip, in the order of the seeds."""
        base = 0
        for seed in self.plan.seeds:
            item = json.loads((self.parts / f"{seed}.json").read_text())
            yield video_name(seed), item, base
            base += len(item["codes"])

    def _single(self) -> Iterator[tuple[str, Record]]:
        return ((name, item) for name, item, _ in self._items() if len(item["targets"]) == 1)

    def _mevis(self) -> Iterator[Entry]:
        return ((name, mevis_video(item, base)) for name, item, base in self._items())

    def _masks(self) -> Iterator[Entry]:
        return (
            (str(base + number), codes)
            for _, item, base in self._items()
            for number, codes in enumerate(item["codes"])
        )

    def _ytvos(self) -> Iterator[Entry]:
        return ((name, ytvos_video(item)) for name, item in self._single())

    def _objects(self) -> Iterator[Entry]:
        return ((name, ytvos_objects(item)) for name, item in self._single())

    def _traces(self) -> Iterator[Entry]:
        return ((None, trace_item(item, name, base)) for name, item, base in self._items())

    def _prompts(self) -> Iterator[Entry]:
        return ((None, rl_item(item, name, base)) for name, item, base in self._items())


def stream(path: Path, braces: tuple[str, str], entries: Iterator[Entry]) -> None:
    """Write a JSON file entry by entry, one a line; it appears under its name when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w") as file:
        file.write(braces[0])
        for number, (key, value) in enumerate(entries):
            name = "" if key is None else json.dumps(key) + ":"
            file.write((",\n" if number else "\n") + name + json.dumps(value, separators=(",", ":")))
        file.write("\n" + braces[1] + "\n")
    partial.replace(path)


def _read_summary(done: Path, root: Path) -> Written:
    stored = json.loads(done.read_text())
    files = tuple(root / name for name in stored["files"])
    return Written(root, files, stored["counts"], stored["families"])
