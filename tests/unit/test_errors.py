"""Exit codes and families of the named errors."""

from __future__ import annotations

import inspect

import pytest

from videoseg import errors

CLASSES = [
    item for _, item in inspect.getmembers(errors, inspect.isclass) if item.__module__ == errors.__name__
]


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_documented_and_has_an_exit_code(kind: type[errors.VideosegError]) -> None:
    assert issubclass(kind, errors.VideosegError)
    assert kind.__doc__
    assert kind.exit_code in {1, 2, 3, 130}


def test_exit_codes_follow_the_family() -> None:
    for kind in CLASSES:
        if issubclass(kind, errors.InputError):
            assert kind.exit_code == 3
    assert errors.UsageError.exit_code == 2
    assert errors.VideosegError.exit_code == 1
    assert errors.InterruptedRunError.exit_code == 130
    assert issubclass(errors.FrameError, errors.VideoError)
    assert issubclass(errors.VideoError, errors.InputError)


def test_reply_error_carries_its_kind() -> None:
    error = errors.ReplyError("no_vtg", "no interval")
    assert (error.kind, str(error)) == ("no_vtg", "no interval")
