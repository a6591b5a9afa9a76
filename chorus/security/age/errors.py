"""Errors of age files; none repeats anything secret."""

from __future__ import annotations

from chorus.errors import PeerError


class AgeError(PeerError):
    """A file that cannot be decrypted."""

    code = "age"


class DamagedAge(AgeError):
    """No age file, or one that was truncated or altered."""

    code = "age_damaged"


class NotForUs(AgeError):
    """A whole header, with no stanza for any of the given identities."""

    code = "age_not_for_us"


class WrongPassphrase(AgeError):
    """A whole header of a passphrase, and not of this one."""

    code = "age_passphrase"
