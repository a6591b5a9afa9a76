from __future__ import annotations

import itertools
import os
import string

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.errors import UserError
from chorus.identity import Identity
from chorus.multiformats import base58
from chorus.multiformats.multiaddr import Multiaddr
from chorus.security.jointoken import (
    MAX_ADDRESS_BYTES,
    MAX_ADDRESSES,
    MAX_SECRET,
    PREFIX,
    JoinToken,
    TokenError,
    WeakSecret,
    _checksum,
    parse_secret,
)
from tests.support import PureTestCase

PEER = Identity.from_seed(b"\1" * 32).peer_id
CLUSTER = bytes(range(32))
SECRET = bytes(range(100, 132))
ADDRESSES = [Multiaddr.parse(text) for text in ("/ip4/127.0.0.1/tcp/9000", "/ip4/192.168.1.7/tcp/9000")]


def token(**changes: object) -> JoinToken:
    values = {"cluster_id": CLUSTER, "peer_id": PEER, "secret": SECRET, "addresses": ADDRESSES}
    return JoinToken.make(**(values | changes))


def texts_of(body: bytes) -> str:
    return PREFIX + base58.encode(body + _checksum(body))


class JoinTokenTests(PureTestCase):
    def test_round_trip(self) -> None:
        made = token()
        text = made.text()
        self.assertTrue(text.startswith(PREFIX) and text.isalnum())
        self.assertEqual(JoinToken.parse(text), made)
        self.assertEqual(JoinToken.parse(f"  {text[:40]}\n{text[40:]}\n"), made)

    def test_addresses_are_those_of_use_to_others_first(self) -> None:
        made = token(
            addresses=[
                Multiaddr.parse(text)
                for text in (
                    "/ip4/127.0.0.1/tcp/9000",
                    "/ip4/0.0.0.0/tcp/9000",
                    "/ip6/::/tcp/9000",
                    "/ip4/10.0.0.1/tcp/9000",
                    f"/ip4/1.1.1.1/tcp/9000/p2p/{PEER}",
                    "/ip4/1.1.1.1/tcp/9000",
                )
            ]
        )
        shown = ["/ip4/1.1.1.1/tcp/9000", "/ip4/10.0.0.1/tcp/9000", "/ip4/127.0.0.1/tcp/9000"]
        self.assertEqual([str(address) for address in made.addresses], shown)
        self.assertEqual(str(made.dialable()[0]), f"/ip4/1.1.1.1/tcp/9000/p2p/{PEER}")

    def test_limits(self) -> None:
        many = [Multiaddr.tcp("10.0.0.1", port) for port in range(1, 50)]
        self.assertEqual(len(token(addresses=many).addresses), MAX_ADDRESSES)
        long = [Multiaddr.parse(f"/dns/{'a' * 200}{n}.example/tcp/1") for n in range(8)]
        kept = token(addresses=long).addresses
        self.assertLess(sum(len(address.raw) for address in kept), MAX_ADDRESS_BYTES)
        largest = token(addresses=long, secret=os.urandom(MAX_SECRET))
        self.assertEqual(JoinToken.parse(largest.text()), largest)

    def test_for_people(self) -> None:
        lines = token().describe().splitlines()
        facts = dict(line.split(maxsplit=1) for line in lines[:3])
        self.assertEqual(facts, {"cluster": CLUSTER.hex(), "peer": str(PEER), "secret": SECRET.hex()})
        self.assertEqual(lines[3], "address  /ip4/192.168.1.7/tcp/9000")

    def test_repr_shows_no_secret(self) -> None:
        self.assertNotIn("secret", repr(token()))

    def test_each_character_mistyped_or_missing(self) -> None:
        text = token().text()
        for position in range(len(text)):
            other = "2" if text[position] != "2" else "3"
            for wrong in (text[:position] + other + text[position + 1 :], text[:position] + text[position + 1 :]):
                with self.assertRaises(TokenError) as caught:
                    JoinToken.parse(wrong)
                self.assertNotIn(text[10:20], str(caught.exception))
                self.assertNotIn("\n", str(caught.exception))

    def test_refusals(self) -> None:
        for text in ("", "chorus", "token", PREFIX, PREFIX + "0", "chorus2abc", PREFIX + "1" * 5000, "☃"):
            with self.assertRaises(TokenError, msg=text[:20]):
                JoinToken.parse(text)

    def test_well_sealed_and_wrong_inside(self) -> None:
        body = base58.decode(token().text().removeprefix(PREFIX))[:-4]
        start = 33
        for wrong in (
            b"\x02" + body[1:],
            body + b"\0",
            body[:-1],
            body[:20],
            b"\x01",
            body[:start] + b"\x02\x00\x00" + body[start + 39 :],
            body[: start + 39] + b"\x0f" + bytes(15) + b"\x00",
            body[: start + 39] + b"\x20" + SECRET + b"\x09",
            body[: start + 39] + b"\x20" + SECRET + b"\x01\x01\x04",
        ):
            with self.assertRaises(TokenError, msg=wrong.hex()):
                JoinToken.parse(texts_of(wrong))

    @settings(max_examples=100, deadline=None)
    @given(st.binary(max_size=120))
    def test_any_body(self, body: bytes) -> None:
        with self.assertRaises(TokenError):
            JoinToken.parse(texts_of(body))

    @settings(max_examples=50, deadline=None)
    @given(st.binary(min_size=16, max_size=64), st.lists(st.sampled_from(ADDRESSES), max_size=4))
    def test_any_token(self, secret: bytes, addresses: list[Multiaddr]) -> None:
        made = token(secret=secret, addresses=addresses)
        self.assertEqual(JoinToken.parse(made.text()), made)


class SecretTests(PureTestCase):
    def test_hexadecimal_and_text(self) -> None:
        text = "00112233445566778899AABBCCDDEEFF"
        self.assertEqual(parse_secret(f" {text}\n", source="X"), bytes.fromhex(text))
        phrase = "correct horse battery staple"
        self.assertEqual(parse_secret(phrase, source="X"), phrase.encode())

    def test_below_128_bits(self) -> None:
        for text in (
            "",
            "passwort",
            "00112233445566778899aabbccddee",
            "abcdefghijklmnop",
            "a" * 100,
            "ab" * 40,
            "1234567890" * 3,
            "CorrectHorse12",
        ):
            with self.assertRaises(WeakSecret, msg=text) as caught:
                parse_secret(text, source="CHORUS_CLUSTER_SECRET")
            self.assertTrue(str(caught.exception).startswith("CHORUS_CLUSTER_SECRET: "))
            if text:
                self.assertNotIn(text, str(caught.exception))

    def test_boundaries_of_texts_of_one_kind(self) -> None:
        # The fewest characters with which a random text of that kind reaches 128 bits.
        lower, upper, digits = string.ascii_lowercase[::-1], string.ascii_uppercase[::-1], string.digits
        for kinds, fewest in (
            ((lower,), 28),
            ((upper,), 28),
            (("!$%&/()=?-_.:,;#+*",), 26),
            (("äöüßéèêàâîïôûùç",), 26),
            ((lower, digits), 25),
            ((upper, digits), 25),
            ((digits, " !#-"), 24),
            ((lower, upper), 23),
            ((lower, " !#-"), 22),
            ((lower, "äöü"), 22),
            ((lower, upper, digits), 22),
            ((lower, upper, digits, "!#-"), 20),
        ):
            turns = zip(*map(itertools.cycle, kinds), strict=True)
            text = "".join(itertools.islice(itertools.chain.from_iterable(turns), fewest))
            parse_secret(text, source="X")
            with self.assertRaises(WeakSecret, msg=text):
                parse_secret(text[:-1], source="X")

    def test_boundary_of_digits(self) -> None:
        # An even number of them is hexadecimal, half as many bytes; an odd number is a text of ten kinds of characters.
        digits = "01234567890123456789012345678901234567890123456789"
        for count, taken in ((30, False), (31, False), (32, True), (33, False), (37, False), (38, True), (39, True)):
            if taken:
                self.assertEqual(len(parse_secret(digits[:count], source="X")), count // 2 if count % 2 == 0 else count)
            else:
                with self.assertRaises(WeakSecret, msg=str(count)):
                    parse_secret(digits[:count], source="X")
        for text in ("0123456789abcdef", "0123456789ABCDEF"):
            self.assertEqual(parse_secret(text * 2, source="X"), bytes.fromhex(text * 2))
            with self.assertRaises(WeakSecret):
                parse_secret((text * 2)[:30], source="X")

    def test_too_few_different_characters(self) -> None:
        parse_secret("01234567" * 4, source="X")
        with self.assertRaises(WeakSecret):
            parse_secret("01234566" * 4, source="X")

    def test_limit_max_secret(self) -> None:
        parse_secret("0123456789abcdef" * (MAX_SECRET // 8), source="X")
        with self.assertRaises(WeakSecret):
            parse_secret("0123456789abcdef" * (MAX_SECRET // 8) + "00", source="X")

    @settings(max_examples=100, deadline=None)
    @given(st.text(max_size=60))
    def test_any_text(self, text: str) -> None:
        try:
            secret = parse_secret(text, source="X")
        except UserError:
            return
        self.assertGreaterEqual(len(secret), 16)
