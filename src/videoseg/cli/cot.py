"""`videoseg data cot`: cold-start dialogues from a dataset with masks and a teacher behind an endpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from videoseg.cli.show import console, print_json, progress_bar
from videoseg.errors import UsageError

if TYPE_CHECKING:
    from videoseg.training.cot.build import BuildSettings
    from videoseg.training.cot.report import Report


def cot(
    dataset: str,
    folder: str,
    out: str,
    *,
    split: str = "train",
    base_url: str | None = None,
    teacher: str | None = None,
    first: int = 0,
    count: int | None = None,
    tries: int = 3,
    hints: bool = False,
    temperature: float = 0.7,
    seed: int = 0,
    concurrency: int = 8,
    timeout: float = 120.0,
    retries: int = 5,
    limits: dict[str, Any] | None = None,
    overrides: dict[str, Any] | None = None,
    extra: dict[str, Any] | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> int:
    """Let a teacher play the dialogues of a dataset and keep those that agree with the masks.

    A run that was interrupted goes on when the command is repeated. The key of the endpoint is read from the
    environment variable VIDEOSEG_REMOTE_KEY.

    Args:
        dataset: mevis, revos, long-rvos, own, or another dataset of videos with queries and masks
        folder: its folder
        out: folder to write; VTS-CoT/NAME.json or DATASET.jsonl, with journal and report beside it
        split: split of the dataset
        base_url: address of an OpenAI-compatible endpoint up to /v1, default VIDEOSEG_REMOTE_URL
        teacher: name of its model, default VIDEOSEG_REMOTE_MODEL
        first: number of the first sample
        count: how many samples, default all
        tries: dialogues per sample before it is given up
        hints: tell the teacher when and where the target is visible
        temperature: of the teacher
        seed: for the teacher's sampling
        concurrency: samples and requests at a time
        timeout: seconds for one attempt of a request
        retries: further attempts of a request
        limits: what a dialogue must keep to, such as '{"min_tiou": 0.3}'
        overrides: fields of the dialogue's preset or budget, such as '{"high_frames": 5}'
        extra: fields of the request's body, such as '{"top_p": 0.9}'
        skip_bad: leave out samples that cannot be read instead of stopping
        overwrite: begin anew, removing what an earlier run wrote
        json: print the report as JSON on standard output
    """
    from videoseg.data.readers import open_dataset
    from videoseg.models.remote_types import ChatSettings
    from videoseg.training.cot.build import BuildSettings, build
    from videoseg.training.cot.play import PlaySettings

    if first < 0 or (count is not None and count < 1):
        raise UsageError("first must be at least 0 and count at least 1")
    chat = ChatSettings.from_environment(
        base_url, teacher, timeout=timeout, retries=retries, concurrency=concurrency, extra=extra or {}
    )
    play = PlaySettings(hints=hints, temperature=temperature)
    play = play.override(preset=overrides or {}, limits=limits or {})
    reader = open_dataset(dataset, folder, split)
    last = len(reader) if count is None else first + count
    settings = BuildSettings(
        out=Path(out),
        tries=tries,
        seed=seed,
        samples=range(first, last),
        concurrency=concurrency,
        skip_bad=skip_bad,
        play=play,
    )
    try:
        with progress_bar() as update:
            made = build(reader, chat, settings, overwrite=overwrite, progress=update)
    except KeyboardInterrupt:
        console.print("what was done is kept; the same command goes on from there")
        raise
    _print(made, settings)
    if json:
        print_json(made.data)
    return 3 if made.failed else 0


def _print(made: Report, settings: BuildSettings) -> None:
    data = made.data
    console.print(f"{made.accepted} dialogues of {data['samples']} samples, written to {settings.out}")
    for reason, found in data["reasons"].items():
        console.print(f"  rejected tries, {reason}: {found['count']}")
    for reason, found in data["skipped"].items():
        console.print(f"  left out, {reason}: {found['count']}")
    for error in list(data["failed"].values())[:3]:
        console.print(f"  [red]failed:[/red] {escape(error)}")
    if made.failed:
        console.print(f"  {made.failed} samples could not be asked; the same command asks them again")
