"""What the command `lessonlib` does: run, build, check and export. For instructors and maintainers."""
