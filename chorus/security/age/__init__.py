"""Files of age (age-encryption.org/v1): a strict header check of our own, encryption and decryption by pyrage.

`keys` makes and reads identities and recipients, `header` checks a file before pyrage sees it, `files` encrypts and
decrypts. docs/keys.md says what is promised and what not.
"""

from chorus.security.age.armor import unarmor
from chorus.security.age.errors import AgeError, DamagedAge, NotForUs, WrongPassphrase
from chorus.security.age.files import (
    decrypt,
    decrypt_passphrase,
    encrypt,
    encrypt_passphrase,
    is_passphrase,
    parse_recipients,
)
from chorus.security.age.header import MAX_HEADER, check_header
from chorus.security.age.keys import BadAgeKey, identity_of, new_identity, recipient_of, secret_of

__all__ = [
    "MAX_HEADER",
    "AgeError",
    "BadAgeKey",
    "DamagedAge",
    "NotForUs",
    "WrongPassphrase",
    "check_header",
    "decrypt",
    "decrypt_passphrase",
    "encrypt",
    "encrypt_passphrase",
    "identity_of",
    "is_passphrase",
    "new_identity",
    "parse_recipients",
    "recipient_of",
    "secret_of",
    "unarmor",
]
