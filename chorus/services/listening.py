"""Why an address cannot be listened on, in one line that names the variable to change (pure)."""

from __future__ import annotations

import errno
import os


def cannot_listen(variable: str, host: str, port: int, error: OSError) -> str:
    """`variable` is the first part of the names, as in `CHORUS_P2P`."""
    failed = f"cannot listen on {host} port {port}"
    # asyncio says it in words of its own.
    why = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        local, everywhere = ("::1", "::") if ":" in host else ("127.0.0.1", "0.0.0.0")
        return (
            f"{variable}_BIND: {failed}: {why}; give an address of this machine, for example "
            f"{variable}_BIND={local} (this machine alone) or {variable}_BIND={everywhere} (all of its networks)"
        )
    if error.errno == errno.EACCES:
        return f"{variable}_PORT: {failed}: {why}; choose a port above 1023"
    other = port + 10 if 0 < port < 65526 else 0
    return (
        f"{variable}_PORT: {failed}: {why}; choose another, for example {variable}_PORT={other} (0: any that is free), "
        f"or check {variable}_BIND"
    )
