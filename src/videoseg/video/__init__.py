"""Frames in and out: reading, sampling and writing of videos (layer 2)."""
