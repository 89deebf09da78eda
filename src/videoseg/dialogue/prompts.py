"""The verbatim prompt strings of O3 (specification §3): published checkpoints depend on every character."""

from __future__ import annotations

from collections.abc import Sequence

from videoseg.dialogue.preset import Preset

SYSTEM_PROMPT = (
    "You are a helpful assistant. Your ultimate goal is to perform video temporal grounding (VTG) and "
    "referring video object segmentation (RefVOS). Based on the text query and video content, output your "
    "thinking process within <think> and </think> tags. If anything is unclear, you can select frames from "
    'the video for a clearer view by outputting <select>{"start": start, "end": end, "keyframe": keyframe}'
    "</select>, where 'start' and 'end' are the start and end frame indices of the region for detailed "
    "analysis, and 'keyframe' is the corresponding keyframe index. Once the final answer is confirmed, "
    'provide it within <answer><VTG>{"start": start, "end": end, "keyframe": keyframe}</VTG>, '
    "<RefSeg></RefSeg></answer>."
)

CONTINUE = (
    "The text query is '{query}'.\n Continue your reasoning process inside <think> and </think>. If needed, "
    "you can continue to select images on the original video, by outputting <select> and </select> as "
    "before. If the final answer is confirmed, put your final answer inside <answer> and </answer>."
)


def clean_query(query: str, preset: Preset) -> str:
    """The query as it enters the prompt: `released` deletes `<image>` and `<video>`."""
    if preset.delete_placeholders:
        return query.replace("<image>", "").replace("<video>", "")
    return query


def index_list(indices: Sequence[int], preset: Preset) -> str:
    """A list of frame indices as printed in the prompt: `[0, 5]` or `[np.int64(0), np.int64(5)]`."""
    if preset.index_style == "numpy2":
        return "[" + ", ".join(f"np.int64({index})" for index in indices) + "]"
    return str(list(indices))


def question(query: str, num_frames: int, preset: Preset) -> str:
    """The turn-0 question sentence, with or without its surrounding newlines."""
    sentence = (
        f'The query is "{clean_query(query, preset)}". Show me your thought process for finding and '
        f"segmenting this target. This video has {num_frames} frames."
    )
    return f"\n{sentence}\n" if preset.question_newlines else sentence


def first_texts(
    low: Sequence[int], high: Sequence[int], query: str, num_frames: int, preset: Preset
) -> tuple[str, str, str]:
    """The texts of the turn-0 message: after the low-resolution images, after the high ones, the question."""
    return (
        f"\nHere are {len(low)} low-resolution frames in this video "
        f"(frame indice is {index_list(low, preset)})\n",
        f"Here are {len(high)} high-resolution frames in this video "
        f"(frame indice:{index_list(high, preset)}).\n",
        question(query, num_frames, preset),
    )


def later_texts(
    frames: Sequence[int], keyframe: int, query: str, num_frames: int, preset: Preset
) -> tuple[str, str, str]:
    """The three texts of a later message: after the interval's images, after the keyframe, the request."""
    bare = preset.later_query == "bare"
    repeated = clean_query(query, preset) if bare else question(query, num_frames, preset)
    return (
        f"\nHere are {len(frames)} low-resolution frames in this video "
        f"(frame indices are {index_list(frames, preset)})\n",
        f"Here is key frames (frame indice:{keyframe}).\n",
        # replace, not format: a query may hold braces
        CONTINUE.replace("{query}", repeated),
    )
