"""Data: what a training sample is. Frozen, small, without pixels: frames and masks are read on request.

Frame numbers are positions in a sample's `frames`. Anything wrong raises `DatasetError` that names the
annotation file, the sample and the field. No torch here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videoseg.data.frames import Frames, image_size
from videoseg.data.tracks import Track, merged
from videoseg.errors import DatasetError, VideoError
from videoseg.masks import Rle
from videoseg.types import Interval, Select

SEG = "[SEG]"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sample was read: dataset, annotation file and the sample's key in it."""

    dataset: str
    file: Path
    key: str

    def error(self, field: str, problem: object) -> DatasetError:
        """The error for this sample; `field` is the path of the entry in the file."""
        return DatasetError(f"{self.file}: sample {self.key}, {field}: {problem}")

    @contextmanager
    def naming(self, field: str) -> Iterator[None]:
        """Turn errors about values, frames and files into this sample's error."""
        try:
            yield
        except DatasetError as error:
            raise self.error(field, error) from error
        except (ValueError, TypeError, KeyError, IndexError, OSError, VideoError) as error:
            raise self.error(field, f"{error if str(error) else repr(error)}") from error


@dataclass(frozen=True, slots=True)
class Target:
    """One object that a query means: its id in the dataset and its masks."""

    id: str
    track: Track


@dataclass(frozen=True, slots=True)
class RefVideoSample:
    """A query about a video. `targets` empty: no such object; None: masks are not published.

    `annotated` are the frames whose masks are known (None: all of them); `kind` is the dataset's own
    type of the query.
    """

    origin: Origin
    frames: Frames
    query: str
    targets: tuple[Target, ...] | None
    kind: str = ""
    annotated: tuple[int, ...] | None = None
    video: str = ""

    def masks(self, frames: Sequence[int]) -> list[Rle]:
        """The union of all targets on each frame, empty where none is there.

        Raises `DatasetError` where masks are missing, damaged or not of the frame's size.
        """
        return union_masks(self.origin, self.frames, self.targets, self.annotated, frames)

    def presence(self, frames: Sequence[int]) -> list[bool]:
        """Whether any target has a pixel on each frame."""
        return [mask.area > 0 for mask in self.masks(frames)]


def object_masks(
    origin: Origin, targets: tuple[Target, ...] | None, frames: Sequence[int]
) -> list[list[Rle | None]]:
    """Masks of every target on each frame; None where the target is absent."""
    if targets is None:
        raise origin.error("masks", "this split is published without masks; it can only be predicted")
    columns = []
    for target in targets:
        with origin.naming(f"masks of object {target.id}"):
            columns.append(target.track.read(frames))
    return columns


def union_masks(
    origin: Origin,
    source: Frames,
    targets: tuple[Target, ...] | None,
    annotated: tuple[int, ...] | None,
    frames: Sequence[int],
) -> list[Rle]:
    """What the `masks` methods do; every mask is compared with the size of its frame."""
    unknown = [frame for frame in frames if annotated is not None and frame not in annotated]
    if unknown:
        raise origin.error("annotated", f"frame {unknown[0]} has no annotation; choose among {annotated}")
    columns = object_masks(origin, targets, frames)
    result = []
    for position, frame in enumerate(frames):
        with origin.naming("frames"):
            size = source.size(frame)
        column = [masks[position] for masks in columns]
        for target, mask in zip(targets or (), column, strict=True):
            if mask is not None and (mask.height, mask.width) != size:
                raise origin.error(
                    f"masks of object {target.id}",
                    f"frame {frame}: mask of {mask.height}x{mask.width}, the frame {source.name(frame)} is "
                    f"{size[0]}x{size[1]} (height x width)",
                )
        result.append(merged(column, size))
    return result


@dataclass(frozen=True, slots=True)
class ImageTarget:
    """One object of an image: the phrases that mean it, and its mask."""

    id: str
    texts: tuple[str, ...]
    track: Track


@dataclass(frozen=True, slots=True)
class RefImageSample:
    """An image with objects that phrases refer to (RefCOCO, +, g)."""

    origin: Origin
    image: Path
    targets: tuple[ImageTarget, ...]

    def mask(self, target: ImageTarget) -> Rle:
        """The target's mask, of the image's size."""
        return image_mask(self.origin, self.image, target.id, target.track)


def image_mask(origin: Origin, image: Path, name: str, track: Track) -> Rle:
    """The mask of a track on its only frame; raises `DatasetError`, also where sizes differ."""
    with origin.naming(f"mask of {name}"):
        size = image_size(image)
        mask = track.read([0])[0]
    if mask is not None and (mask.height, mask.width) != size:
        raise origin.error(
            f"mask of {name}",
            f"it is {mask.height}x{mask.width}, {image.name} is {size[0]}x{size[1]} (height x width)",
        )
    return mask if mask is not None else Rle.empty(*size)


@dataclass(frozen=True, slots=True)
class Phrase:
    """Characters `start` to `end` (excluded) of a caption, and what they show."""

    start: int
    end: int
    track: Track


@dataclass(frozen=True, slots=True)
class GcgSample:
    """An image with a caption whose phrases are grounded (GLaMM); phrases are in order and do not overlap."""

    origin: Origin
    image: Path
    caption: str
    phrases: tuple[Phrase, ...]

    def text(self, phrase: Phrase) -> str:
        """The words of a phrase."""
        return self.caption[phrase.start : phrase.end]

    def tagged(self) -> str:
        """The caption with `<p> phrase </p> [SEG]` in place of every phrase."""
        parts, position = [], 0
        for phrase in self.phrases:
            parts += [self.caption[position : phrase.start], f"<p> {self.text(phrase)} </p> {SEG}"]
            position = phrase.end
        return "".join([*parts, self.caption[position:]])

    def masks(self) -> list[Rle]:
        """One mask per phrase, in order."""
        return [image_mask(self.origin, self.image, repr(self.text(p)), p.track) for p in self.phrases]


@dataclass(frozen=True, slots=True)
class Event:
    """A query about time and the spans (start, end) in seconds that answer it."""

    query: str
    spans: tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class GroundingSample:
    """A video with events (TimeLens); `duration` in seconds."""

    origin: Origin
    frames: Frames
    duration: float
    events: tuple[Event, ...]

    def interval(self, event: Event, rate: float, num_frames: int) -> Interval:
        """The event's first span on a time line of `rate` frames a second and `num_frames` in all.

        Times are cut to whole frames and into the video, as the release does (specification §10).
        """
        start, end = (min(max(int(second * rate), 0), num_frames - 1) for second in event.spans[0])
        return Interval(start, max(start, end))


@dataclass(frozen=True, slots=True)
class ChatTurn:
    """A question about a video and its answer."""

    question: str
    answer: str


@dataclass(frozen=True, slots=True)
class ChatSample:
    """A conversation about a video (ChatUniVi)."""

    origin: Origin
    frames: Frames
    turns: tuple[ChatTurn, ...]


@dataclass(frozen=True, slots=True)
class TraceSample:
    """A multi-turn dialogue that finds a target (VTS-CoT, specification §11).

    `high_frames` are shown at high resolution in turn 0; `replies` are the assistant's texts; `selects[r]`
    is what reply r asked to see, so a dialogue has one select less than replies and a single turn has none.
    `system` and `prompts` are the texts of the file, without the images and lists that a loader inserts.
    """

    origin: Origin
    frames: Frames
    query: str
    targets: tuple[Target, ...]
    high_frames: tuple[int, ...]
    system: str
    prompts: tuple[str, ...]
    replies: tuple[str, ...]
    selects: tuple[Select, ...]
    video: str = ""

    def mask_frames(self) -> tuple[int, ...]:
        """Frames whose masks are needed: the turn-0 high-resolution ones and every selected keyframe."""
        return tuple(sorted({*self.high_frames, *(select.keyframe for select in self.selects)}))

    def supervised(self, turn: int) -> tuple[int, ...]:
        """Frames that supervise the [SEG] of a turn: high-resolution ones, and the keyframe it was shown."""
        shown = (self.selects[turn - 1].keyframe,) if turn else ()
        return tuple(dict.fromkeys((*self.high_frames, *shown)))

    def masks(self, frames: Sequence[int]) -> list[Rle]:
        """The union of all targets on each frame."""
        return union_masks(self.origin, self.frames, self.targets, None, frames)


@dataclass(frozen=True, slots=True)
class RlSample:
    """A prompt of the reinforcement stage (specification §12.1); `existence[t]`: a target is in frame t."""

    origin: Origin
    frames: Frames
    query: str
    targets: tuple[Target, ...]
    existence: tuple[bool, ...]
    video: str = ""

    def masks(self, frames: Sequence[int]) -> list[Rle]:
        """The union of all targets on each frame."""
        return union_masks(self.origin, self.frames, self.targets, None, frames)


Sample = RefVideoSample | RefImageSample | GcgSample | GroundingSample | ChatSample | TraceSample | RlSample


def logical_frames(indices: Sequence[int], fps: float, rate: float, total: int) -> tuple[int, ...]:
    """Where frames `indices` of a video of `fps` lie on a time line of `rate` frames a second."""
    times = np.asarray(indices, dtype=float) / fps
    return tuple(int(value) for value in np.minimum((times * rate).astype(int), total - 1))
