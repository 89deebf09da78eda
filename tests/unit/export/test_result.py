"""The result folder: round trip, contents, and nothing half-written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from videoseg.errors import InputError, OutputError, UsageError
from videoseg.export import result as module
from videoseg.export.result import load, save
from videoseg.masks import Masklets
from videoseg.types import MaskReason, Result, StopReason, VideoInfo
from videoseg.video.reader import Video


def names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def test_round_trip_and_contents(result: Result, frames: np.ndarray, tmp_path: Path) -> None:
    folder = save(result, tmp_path / "out", video=Video(frames, fps=12.5))
    assert load(folder) == result
    assert names(folder) == {"masks.json", "masks", "overlay.mp4", "trace.json", "trace.html"}
    assert names(tmp_path) == {"out"}
    with Video(folder / "overlay.mp4") as drawn:
        assert (len(drawn), drawn.frame_size, drawn.fps) == (12, (36, 48), 12.5)
    assert names(folder / "masks") == {"1", "4"}
    assert names(folder / "masks" / "4") == {f"{index:05d}.png" for index in range(12)}
    picture = np.array(Image.open(folder / "masks" / "4" / "00007.png"))
    assert set(np.unique(picture)) == {0, 255}
    np.testing.assert_array_equal(picture == 255, result.masklets.frame(7)[1])


def test_masks_json_is_plain_coco(result: Result, tmp_path: Path) -> None:
    document = json.loads((save(result, tmp_path / "out") / "masks.json").read_text())
    assert document["query"] == {"id": "q1", "text": result.query.text}
    assert document["video"]["num_frames"] == 12
    assert document["provenance"]["seed"] == 3
    frame = document["objects"][1]["frames"][7]
    assert (frame["presence"], frame["score"]) == (7 / 12, 0.25)
    np.testing.assert_array_equal(coco.decode(frame["rle"]).astype(bool), result.masklets.frame(7)[1])
    trace = json.loads((tmp_path / "out" / "trace.json").read_text())
    assert trace["provenance"] == document["provenance"]
    assert trace["trace"]["turns"][0]["reply"]["action"] == "select"


def test_without_video_and_without_pngs(result: Result, tmp_path: Path) -> None:
    folder = save(result, tmp_path / "out", png=False)
    assert names(folder) == {"masks.json", "trace.json", "trace.html"}
    assert load(folder) == result


@pytest.mark.parametrize("reason", [MaskReason.OK, MaskReason.NO_SEG])
def test_no_object(reason: MaskReason, result: Result, frames: np.ndarray, tmp_path: Path) -> None:
    trace = replace(result.trace, mask_reason=reason, seg_turn=None, turns=(), stop=StopReason.LENGTH)
    nothing = replace(result, masklets=Masklets(12, 36, 48), trace=trace, provenance={})
    folder = save(nothing, tmp_path / "out", video=Video(frames))
    assert load(folder) == nothing
    assert "overlay.mp4" in names(folder)


def test_numpy_values_and_paths_in_provenance(result: Result, tmp_path: Path) -> None:
    odd = replace(result, provenance={"peak": np.float32(1.5), "path": Path("a/b"), "sizes": np.arange(2)})
    assert load(save(odd, tmp_path / "out")).provenance == {"peak": 1.5, "path": "a/b", "sizes": [0, 1]}


def test_long_videos_get_longer_numbers(tmp_path: Path, result: Result) -> None:
    count = 100_001
    masklet = result.masklets.objects[0]
    rles = (masklet.rles[3],) * count
    masklets = Masklets(
        count, 36, 48, (replace(masklet, rles=rles, presence=(1.0,) * count, scores=(1.0,) * count),)
    )
    paths: list[str] = []

    class Recorder:
        def save(self, path: Path, **_: object) -> None:
            paths.append(path.name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Image, "fromarray", lambda _: Recorder())
        module._write_pngs(masklets, tmp_path / "masks")
    assert (paths[0], paths[-1]) == ("000000.png", "100000.png")


def test_folder_that_holds_something(result: Result, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    save(result, folder)
    (folder / "mine.txt").write_text("keep")
    (folder / "masks" / "9").mkdir()
    with pytest.raises(OutputError, match="not empty"):
        save(result, folder)
    other = replace(result, provenance={"seed": 4})
    save(other, folder, overwrite=True)
    assert load(folder).provenance == {"seed": 4}
    assert (folder / "mine.txt").read_text() == "keep"
    assert names(folder / "masks") == {"1", "4"}
    assert names(tmp_path) == {"out"}


def test_file_in_the_place_of_the_folder(result: Result, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="this is a file"):
        save(result, tmp_path / "out", overwrite=True)
    with pytest.raises(OutputError, match="cannot be written"):
        save(result, tmp_path / "out" / "below")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError(28, "No space left on device")])
@pytest.mark.parametrize("had", [False, True])
def test_interrupted_save_leaves_nothing(
    had: bool,
    error: BaseException | type[BaseException],
    result: Result,
    frames: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "out"
    if had:
        save(result, folder)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(module, "write_trace_html", fail)
    expected = OutputError if isinstance(error, OSError) else error
    with pytest.raises(expected):  # type: ignore[arg-type]
        save(replace(result, provenance={}), folder, video=Video(frames), overwrite=True)
    assert names(tmp_path) == ({"out"} if had else set())
    if had:
        assert load(folder) == result


def test_video_of_another_size(result: Result, frames: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="11 frames"):
        save(result, tmp_path / "out", video=Video(frames[:11]))
    assert names(tmp_path) == set()


def test_video_by_path(result: Result, frames: np.ndarray, tmp_path: Path) -> None:
    clip = tmp_path / "clip"
    clip.mkdir()
    for index, frame in enumerate(frames):
        Image.fromarray(frame).save(clip / f"{index}.png")
    assert "overlay.mp4" in names(save(result, tmp_path / "out", video=clip))


def test_missing_and_damaged_files(result: Result, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"masks\.json: no such file"):
        load(tmp_path)
    folder = save(result, tmp_path / "out")
    masks, trace = folder / "masks.json", folder / "trace.json"
    good = trace.read_text()
    for text, words in [
        ("{", "not readable as JSON"),
        ("[]", "'format'"),
        ('{"format": "other"}', "'format'"),
        (good.replace('"version": 1', '"version": 99'), "version 99"),
        (good.replace('"stop": "answer"', '"stop": "tired"'), "tired"),
        (good.replace('"keyframe": 6,', '"key": 6,', 2), "keyframe"),
    ]:
        trace.write_text(text)
        with pytest.raises(InputError, match=r"trace\.json.*") as caught:
            load(folder)
        assert words in str(caught.value)
    trace.write_text(good)
    document = json.loads(masks.read_text())
    del document["objects"][0]["frames"][3]
    masks.write_text(json.dumps(document))
    with pytest.raises(InputError, match=r"masks\.json: object 1 has 11 frames"):
        load(folder)


def test_presence_must_be_a_number(result: Result, tmp_path: Path) -> None:
    masklet = result.masklets.objects[0]
    broken = replace(masklet, presence=(float("nan"),) * 12)
    info = VideoInfo("clip", 12, 36, 48, 1.0)
    with pytest.raises(ValueError, match=r"[Nn]a[Nn]|not JSON compliant"):
        save(replace(result, video=info, masklets=Masklets(12, 36, 48, (broken,))), tmp_path / "out")
    assert names(tmp_path) == set()
