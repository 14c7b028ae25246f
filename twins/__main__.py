"""`python -m twins [NAME ...]` from a clone: pre-train twins again from generated text."""

import argparse
import sys

from lessonlib.runtime import LessonError
from twins.making import add_options, main

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m twins")
    add_options(parser)
    try:
        sys.exit(main(parser.parse_args()))
    except LessonError as error:
        sys.exit(f"twins: {error}")
