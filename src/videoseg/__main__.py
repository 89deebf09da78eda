"""`python -m videoseg`, which launchers of several processes need."""

from videoseg.cli.main import entry

entry()
