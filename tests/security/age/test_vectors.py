"""The age test kit (C2SP/CCTV): every case without a known difference."""

from __future__ import annotations

import base64
import hashlib
import zlib
from typing import Any

from chorus.security.age import (
    AgeError,
    DamagedAge,
    NotForUs,
    WrongPassphrase,
    decrypt,
    decrypt_passphrase,
    unarmor,
)
from tests.support import PureTestCase, vectors

EXPECTED: dict[str, tuple[object, ...]] = {
    "success": (None,),
    "no match": (NotForUs, WrongPassphrase),
    "HMAC failure": (DamagedAge,),
    "armor failure": (DamagedAge,),
    "header failure": (DamagedAge,),
    "payload failure": (DamagedAge,),
}


def _as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def open_case(header: dict[str, Any], body: bytes) -> bytes:
    if header.get("compressed") == "zlib":
        body = zlib.decompress(body)
    if header.get("armored") == "yes":
        body = unarmor(body)
    if "passphrase" in header:
        return decrypt_passphrase(body, _as_list(header["passphrase"])[0])
    # Two cases bring no identity: they fail before one is needed.
    return decrypt(body, _as_list(header.get("identity", [])))


def outcome(header: dict[str, Any], body: bytes) -> object:
    """The kind of error, or None for the content that the case names."""
    try:
        content = open_case(header, body)
    except AgeError as error:
        return type(error)
    return None if hashlib.sha256(content).hexdigest() == header["payload"] else "another content"


class AgeTestKit(PureTestCase):
    def test_every_case(self) -> None:
        cases = vectors("age-testkit.json")["vectors"]
        self.assertEqual(len(cases), 121)
        for case in cases:
            header, body = case["header"], base64.b64decode(case["body_base64"])
            with self.subTest(case["name"]):
                self.assertIn(outcome(header, body), EXPECTED[header["expect"]], case["name"])
