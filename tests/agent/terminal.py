"""A program on a terminal of its own: what it shows, and keys."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from typing import Self

from system.gateway_process import wait_for

CTRL_C = "\x03"
CTRL_D = "\x04"
ENTER = "\r"
UP = "\x1b[A"
PATIENCE = 90.0  # seconds; the machine may be loaded
_ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|\][^\x07]*\x07|[()][A-Z0-9]|[=>])")


class Terminal:
    """`shown` is all that the program wrote, without colours and movements of the cursor."""

    def __init__(self, command: Sequence[str]) -> None:
        self._ours, theirs = pty.openpty()
        self.resize(24, 100)
        environment = {**os.environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        # `setsid --ctty`: the terminal is that of the program, so Ctrl-C reaches it as it reaches any program.
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *command], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
        os.close(theirs)
        self._written = ""
        self._seen = 0
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        os.close(self._ours)

    @property
    def shown(self) -> str:
        return _ESCAPES.sub("", self._written).replace("\r\n", "\n").replace("\b", "")

    def press(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def say(self, line: str) -> None:
        self.press(line + ENTER)

    def wait(self, text: str) -> str:
        """Wait until it shows the text, after what was waited for before; returns all in between.

        Spaces at its end do not count: an editor moves the cursor instead of writing them.
        """
        text = text.rstrip()

        def found() -> str | None:
            shown = self.shown
            at = shown.find(text, self._seen)
            if at < 0:
                return None
            between, self._seen = shown[self._seen : at + len(text)], at + len(text)
            return between

        try:
            between: str = wait_for(found, within=PATIENCE, what=f"the terminal shows {text!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it shows {self.shown[-800:]!r}") from None
        return between

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def end(self) -> int:
        """Its exit status."""
        return self.process.wait(PATIENCE)

    def _read(self) -> None:
        while True:
            try:
                piece = os.read(self._ours, 65536)
            except OSError as error:
                if error.errno != errno.EIO:  # nobody has the other end any more
                    raise
                return
            if not piece:
                return
            self._written += piece.decode("utf-8", "replace")
