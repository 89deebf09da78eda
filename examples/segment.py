"""The whole API on one screen: python examples/segment.py [VIDEO] [QUESTION]."""

import sys

import videoseg
from videoseg.models.checkpoints.hub import ASSETS

clip = sys.argv[1] if len(sys.argv) > 1 else str(ASSETS / "tiny" / "demo.mp4")
question = sys.argv[2] if len(sys.argv) > 2 else "the red disc"

with videoseg.Video(clip) as video:
    result = videoseg.load("tiny").segment(video, question)
    videoseg.save(result, "segment-example", video=video, overwrite=True)

for turn in result.trace.turns:
    frames = sorted({shown.frame for shown in turn.shown})
    print(f"turn {turn.index}: looked at frames {frames}")
    for step, text in turn.steps:
        print(f"  {step}: {text}")
print(f"stopped by {result.trace.stop.value}; the mask was decoded on frame {result.trace.keyframe}")
print("see segment-example/overlay.mp4 and trace.html")

for masklet in result.masklets:
    seen = [frame for frame, code in enumerate(masklet.rles) if code.area]
    print(f"object {masklet.object_id}: on {len(seen)} of {len(masklet.rles)} frames")
