"""Text for a terminal: what comes from a file must not control it."""

import re

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")  # line ends and tabs stay


def escape_control(text):
    """``text`` with its control characters, also those that turn the direction of text, written as in Python's strings.

    A name of a column or class may hold ESC sequences, which would recolor, overwrite or forge what is shown.
    """
    return CONTROL.sub(lambda found: repr(found.group())[1:-1], str(text))
