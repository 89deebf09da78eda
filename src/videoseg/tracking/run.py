"""Several targets on their way through one video: each frame is encoded once per sweep for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from videoseg.errors import UsageError
from videoseg.tracking.base import Tracker

Features = TypeVar("Features")
Prompt = TypeVar("Prompt")
Prediction = TypeVar("Prediction")


@dataclass(frozen=True, eq=False, slots=True)
class Job(Generic[Features, Prompt, Prediction]):
    """A keyframe, the tracker that starts there, and what it is told there (asked for when it is needed)."""

    keyframe: int
    tracker: Tracker[Features, Prompt, Prediction]
    prompt: Callable[[], Prompt]


class TrackingRun(Generic[Features, Prompt, Prediction]):
    """One sweep forward from the first keyframe, each job joining at its own, then one back from the last.

    So the features of a frame are computed at most twice, however many jobs there are. Iterating yields
    (job, frame, prediction). `position` counts the frames visited of both sweeps. After an iteration ended
    or was given up the trackers are closed; `state` must be taken before.
    """

    def __init__(
        self,
        jobs: Sequence[Job[Features, Prompt, Prediction]],
        features: Callable[[int], Features],
        num_frames: int,
    ) -> None:
        """Raises UsageError if a keyframe is not in the video."""
        for job in jobs:
            if not 0 <= job.keyframe < num_frames:
                raise UsageError(
                    f"keyframe {job.keyframe} is not in the video, whose frames are 0..{num_frames - 1}"
                )
        self._jobs, self._features = jobs, features
        first = min((job.keyframe for job in jobs), default=num_frames)
        last = max((job.keyframe for job in jobs), default=0)
        self._visits = [(frame, 1) for frame in range(first, num_frames)]
        self._visits += [(frame, -1) for frame in range(last - 1, -1, -1)]
        self.position = 0
        self._left = 0

    @property
    def between_frames(self) -> bool:
        """Whether every mask of the frames visited so far was yielded: only then `state` is complete."""
        return self._left == 0

    def state(self) -> dict[str, Any]:
        """The position and what the trackers remember."""
        return {"position": self.position, "trackers": [job.tracker.state() for job in self._jobs]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on behind the frames that had been visited when `state` was taken."""
        self.position = state["position"]
        for job, kept in zip(self._jobs, state["trackers"], strict=True):
            job.tracker.restore(kept, job.prompt)

    def __iter__(self) -> Iterator[tuple[int, int, Prediction]]:
        try:
            while self.position < len(self._visits):
                frame, sign = self._visits[self.position]
                answers = self._visit(frame, sign)
                self.position += 1
                for left, (number, answer) in zip(range(len(answers) - 1, -1, -1), answers, strict=True):
                    self._left = left
                    yield number, frame, answer
        finally:
            for job in self._jobs:
                job.tracker.close()

    def _visit(self, frame: int, sign: int) -> list[tuple[int, Prediction]]:
        """The masks of the jobs that are due on `frame`; its features are dropped on return."""
        features = self._features(frame)
        return [
            (number, self._step(job, features, frame))
            for number, job in enumerate(self._jobs)
            if (frame - job.keyframe) * sign >= 0 and (sign > 0 or frame != job.keyframe)
        ]

    def _step(self, job: Job[Features, Prompt, Prediction], features: Features, frame: int) -> Prediction:
        if frame == job.keyframe:
            return job.tracker.start(features, job.prompt(), frame)
        return job.tracker.step(features, frame)
