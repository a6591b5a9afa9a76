"""The output file of long work: an unwritable place is refused before the work, not after it."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from types import TracebackType

from chorus.client.errors import ClientError
from chorus.files import kind, open_plain


class PageFile:
    """Opened beside `path`, where it appears whole at the end of `write`, or never: nothing stays of it then.

    Constructor and `write` raise `ClientError`. What `path` led to before stays until the new file takes its place,
    with its mode.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # A link stays; what it leads to is replaced.
            self._target = path.resolve()
            mode = self._check()
            self._temporary = self._target.with_name(f".chorus-{os.urandom(8).hex()}")
            self._descriptor = open_plain(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            if mode is not None:
                os.fchmod(self._descriptor, mode)
        except (OSError, RuntimeError) as error:
            # RuntimeError: links that lead in a circle.
            raise self._refused(error) from None

    def _check(self) -> int | None:
        """Permissions of what is there already, None where nothing is."""
        if self._target.is_dir():
            raise ClientError(f"{self.path} is a directory; --output names a file")
        if not self._target.parent.is_dir():
            raise ClientError(f"{self._target.parent} is no directory; --output names a file in one that is there")
        if not self._target.exists():
            return None
        found = self._target.stat().st_mode
        if (what := kind(found)) is not None:
            # To take its place would be worse than not to write: /dev/null is there for others too.
            raise ClientError(f"{self.path} is {what}; --output names a file")
        if not os.access(self._target, os.W_OK):
            raise PermissionError(0, "Permission denied")
        return stat.S_IMODE(found)

    def _refused(self, error: Exception) -> ClientError:
        return ClientError(f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}")

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            os.close(self._descriptor)
        with contextlib.suppress(OSError):
            self._temporary.unlink()

    def write(self, content: bytes) -> None:
        try:
            with open(self._descriptor, "wb", closefd=False) as file:
                file.write(content)
            os.replace(self._temporary, self._target)
        except OSError as error:
            raise self._refused(error) from None
