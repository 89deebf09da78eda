"""Data readers: what all of them share. A reader is a sequence of samples that are made when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from videoseg.data.frames import ImageFrames, in_time_order
from videoseg.data.sample import Origin, Sample
from videoseg.data.tracks import short
from videoseg.errors import DatasetError

S = TypeVar("S", bound=Sample, covariant=True)


class Reader(ABC, Generic[S]):
    """Samples of one dataset and split.

    `groups` are the units that training counts and repeats: all expressions of one video or image are one
    unit, from which some are drawn. Making a reader parses small files and indexes large ones; masks and
    pixels are read only when a sample is asked for them. Raises `DatasetError` where the folder is not
    laid out as the dataset's own, or where an annotation is damaged.
    """

    dataset: ClassVar[str]

    def __init__(self, folder: Path | str, split: str = "train") -> None:
        self.folder = Path(folder)
        self.split = split
        if not self.folder.is_dir():
            raise DatasetError(f"{self.folder}: no such folder; give the folder of {self.dataset}")

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int) -> S:
        """Make one sample; `index` is in range."""

    def __iter__(self) -> Iterator[S]:
        return (self.sample(index) for index in range(len(self)))

    def __getitem__(self, index: int) -> S:
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"sample {index} of {self.dataset} {self.split}, which has {len(self)}")
        return self.sample(position)

    @cached_property
    def groups(self) -> Sequence[range]:
        """Sample numbers of every unit; by default each sample is one."""
        return [range(index, index + 1) for index in range(len(self))]

    def counts(self) -> dict[str, int]:
        """Numbers to compare with the manifest, by name."""
        return {"samples": len(self)}

    def notes(self) -> list[str]:
        """What a person should know of this copy: frame-name patterns, kinds of ids, what was left out."""
        return []

    def origin(self, file: Path, key: str) -> Origin:
        """Names a sample in messages."""
        return Origin(self.dataset, file, key)


def field(entry: Any, name: str, kinds: type | tuple[type, ...], origin: Origin, at: str = "") -> Any:
    """`entry[name]`; raises `DatasetError` where it is missing or of another kind."""
    place = f"{at}.{name}" if at else name
    if not isinstance(entry, Mapping):
        raise origin.error(at or "entry", f"an object with fields is expected, not {short(entry)}")
    if name not in entry:
        raise origin.error(place, f"missing; there are {', '.join(map(str, entry)) or 'no fields'}")
    value = entry[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in as_tuple(kinds)):
        wanted = " or ".join(kind.__name__ for kind in as_tuple(kinds))
        raise origin.error(place, f"{short(value)} is no {wanted}")
    return value


def as_tuple(kinds: type | tuple[type, ...]) -> tuple[type, ...]:
    """One type or several, as a tuple."""
    return kinds if isinstance(kinds, tuple) else (kinds,)


def text_field(entry: Any, name: str, origin: Origin, at: str = "") -> str:
    """A text that is not blank, stripped."""
    text: str = field(entry, name, str, origin, at)
    if not text.strip():
        raise origin.error(f"{at}.{name}" if at else name, "the text is empty")
    return text.strip()


def ids(value: Any, origin: Origin, at: str) -> tuple[str, ...]:
    """One id or a list of ids, numbers or texts, as texts; the same id twice counts once."""
    listed = value if isinstance(value, list) else [value]
    for item in listed:
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise origin.error(at, f"{short(value)} is no id or list of ids (whole numbers or texts)")
    return tuple(dict.fromkeys(str(item) for item in listed))


def listed_frames(entry: Any, folder: Path, origin: Origin) -> tuple[ImageFrames, tuple[int, ...]]:
    """`entry["frames"]` (names without suffix) as JPEG files in time order, and their places in the list."""
    names = field(entry, "frames", list, origin)
    if not names:
        raise origin.error("frames", "the list is empty")
    with origin.naming("frames"):
        order = in_time_order(names)
    return ImageFrames(folder, tuple(f"{names[place]}.jpg" for place in order)), order


def frame_number(value: Any, num_frames: int, origin: Origin, at: str) -> int:
    """A position in a list of frames."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise origin.error(at, f"{short(value)} is no frame number")
    if not 0 <= value < num_frames:
        raise origin.error(at, f"frame {value} is outside the {num_frames} frames (0 to {num_frames - 1})")
    return value
