"""Named errors: what went wrong, where, and what to do. Exit codes follow design §7."""

from __future__ import annotations


class VideosegError(Exception):
    """Base of every error that videoseg raises on purpose."""

    exit_code = 1


class UsageError(VideosegError):
    """A flag, argument or combination of them that cannot be served."""

    exit_code = 2


class InputError(VideosegError):
    """A file, model or dataset that cannot be used as given."""

    exit_code = 3


class VideoError(InputError):
    """Base of the errors about a video; the message names the path (and frame)."""


class VideoNotFoundError(VideoError):
    """The path, folder or glob does not exist or matches nothing."""


class UnsupportedVideoError(VideoError):
    """The file exists but is not a video or image format that can be decoded."""


class EmptyVideoError(VideoError):
    """The file, folder or array holds no frame at all."""


class NoVideoStreamError(VideoError):
    """The container has no video stream (an audio-only file, for example)."""


class CorruptVideoError(VideoError):
    """The container is damaged or truncated."""


class FrameError(VideoError):
    """One frame cannot be read or does not fit the others; the message names it."""


class QueryError(InputError):
    """A question that is empty or holds a reserved token."""


class CheckpointError(InputError):
    """A checkpoint that is missing, incomplete or of an unknown layout."""


class CheckpointKeysError(CheckpointError):
    """State-dict keys that are missing or unexpected; the message lists them."""


class OutputError(InputError):
    """The place for the output cannot be written, or holds something already."""


class DatasetError(InputError):
    """A sample or annotation file that cannot be used; the message names file and field."""


class RemoteError(InputError):
    """A model behind an endpoint that gave no usable reply; the message names the request and the address."""


class RemoteUnavailableError(RemoteError):
    """The endpoint could not be reached, was too slow or too busy, however often it was asked."""


class RemoteReplyError(RemoteError):
    """The endpoint answered, but not with a chat completion that holds text."""


class RemoteRefusedError(RemoteError):
    """The endpoint refuses the request (key, model, size, quota); asking again would not help.

    `status` is the HTTP status.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class ReplyError(VideosegError):
    """A model reply that does not follow the turn grammar (O3 specification §2).

    `kind` is a short stable word (`no_action`, `no_vtg`, `bad_json`, `bad_field`).
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class RenderError(VideosegError):
    """Image tokens and image features of a dialogue disagree (design contract 2)."""


class RewardError(InputError):
    """A reward function that cannot be used, or that returned something else than one number per rollout."""


class GroupError(VideosegError):
    """A group of rollouts that are not answers to one prompt, or not as many as agreed (users, R3)."""


class AlignmentError(VideosegError):
    """The masks of a turn do not correspond to its [SEG] tokens; the message names rollout and turn."""


class WorkerError(VideosegError):
    """A worker process that cannot be prepared, or that dies whatever it is given."""


class CollapseError(VideosegError):
    """A stop rule of a training run was met; the message names the number and what to change."""


class InterruptedRunError(VideosegError):
    """The user interrupted a long run; what was finished is kept."""

    exit_code = 130
