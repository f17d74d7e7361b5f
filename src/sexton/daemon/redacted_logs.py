"""No secret in the log of this process, whoever wrote the line."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

from sexton.redaction import Redactor

_FORMATTER = logging.Formatter()


@contextmanager
def redacted_logs(redactor: Redactor) -> Iterator[None]:
    """Take secrets out of what the handlers of the root logger write, tracebacks included."""
    handlers, keep_out = list(logging.getLogger().handlers), _KeepOut(redactor)
    for handler in handlers:
        handler.addFilter(keep_out)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(keep_out)


@final
class _KeepOut(logging.Filter):
    def __init__(self, redactor: Redactor) -> None:
        super().__init__()
        self._redactor = redactor

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = self._redactor.text(record.getMessage()), ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = self._redactor.text(record.exc_text)
        return True
