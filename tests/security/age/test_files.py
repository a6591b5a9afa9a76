"""age files: whose they are, damage at every byte, and the check of the header."""

from __future__ import annotations

from unittest import mock

import pyrage
from hypothesis import given
from hypothesis import strategies as st

from chorus.security import age
from chorus.security.age import files, header
from chorus.security.age.errors import AgeError
from chorus.security.age.keys import bech32
from tests.support import PureTestCase

ALICE = age.identity_of(b"\1" * 32)
BOB = age.identity_of(b"\2" * 32)


class AgeKeys(PureTestCase):
    def test_an_identity_is_its_secret(self) -> None:
        secret = bytes(range(32))
        identity = age.new_identity(lambda size: secret[:size])
        self.assertTrue(identity.startswith("AGE-SECRET-KEY-1"))
        self.assertEqual(age.secret_of(identity), secret)

    def test_a_published_identity(self) -> None:
        # The identity and recipient of the age test kit.
        identity = "AGE-SECRET-KEY-1EGTZVFFV20835NWYV6270LXYVK2VKNX2MMDKWYKLMGR48UAWX40Q2P2LM0"
        self.assertEqual(age.identity_of(age.secret_of(identity)), identity)
        self.assertEqual(age.recipient_of(identity), "age1xmwwc06ly3ee5rytxm9mflaz2u56jjj36s0mypdrwsvlul66mv4q47ryef")

    def test_a_wrong_letter_anywhere(self) -> None:
        for at in range(len(ALICE)):
            wrong = ALICE[:at] + ("Q" if ALICE[at] != "Q" else "P") + ALICE[at + 1 :]
            self.assertRaises(age.BadAgeKey, age.secret_of, wrong)

    def test_other_texts(self) -> None:
        for text in ("", "1", ALICE.lower(), ALICE[:-1], ALICE + "Q", age.recipient_of(ALICE), "AGE-SECRET-KEY-PQ-1Q"):
            self.assertRaises(age.BadAgeKey, age.secret_of, text)
        for text in (
            "",
            "age1",
            age.recipient_of(ALICE).upper(),
            age.recipient_of(ALICE)[:-1],
            ALICE,
            "age1tag1q",
            "x",
        ):
            self.assertRaises(age.BadAgeKey, age.parse_recipients, [text])
        self.assertRaises(age.BadAgeKey, age.encrypt, b"", [])
        self.assertRaises(ValueError, age.identity_of, b"short")

    @given(st.binary(min_size=32, max_size=32))
    def test_every_secret_comes_back(self, secret: bytes) -> None:
        self.assertEqual(age.secret_of(age.identity_of(secret)), secret)


class AgeFiles(PureTestCase):
    def test_each_recipient_reads_it(self) -> None:
        sealed = age.encrypt(b"content", map(age.recipient_of, (ALICE, BOB, ALICE)))
        for identity in (ALICE, BOB):
            self.assertEqual(age.decrypt(sealed, [identity]), b"content")

    def test_others_do_not(self) -> None:
        sealed = age.encrypt(b"content", [age.recipient_of(ALICE)])
        self.assertRaises(age.NotForUs, age.decrypt, sealed, [BOB])
        self.assertRaises(age.NotForUs, age.decrypt, sealed, [])
        self.assertNotIn(b"content", sealed)

    def test_altered_or_cut_at_every_byte(self) -> None:
        sealed = age.encrypt(b"content", [age.recipient_of(ALICE)])
        for at in range(len(sealed)):
            self.assertRaises(AgeError, age.decrypt, sealed[:at], [ALICE])
            self.assertRaises(AgeError, age.decrypt, sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :], [ALICE])
        self.assertRaises(age.DamagedAge, age.decrypt, sealed + b"x", [ALICE])

    def test_a_passphrase(self) -> None:
        sealed = age.encrypt_passphrase(b"content", "correct horse")
        self.assertEqual(age.decrypt_passphrase(sealed, "correct horse"), b"content")
        self.assertRaises(age.WrongPassphrase, age.decrypt_passphrase, sealed, "battery staple")
        self.assertRaises(age.NotForUs, age.decrypt, sealed, [ALICE])
        self.assertRaises(age.DamagedAge, age.decrypt_passphrase, sealed[:-1], "correct horse")

    def test_errors_repeat_nothing_secret(self) -> None:
        for wrong in (ALICE[:-1] + "?", ALICE.lower()):
            error = self.assertRaises(age.BadAgeKey, age.secret_of, wrong)
            self.assertNotIn(wrong[20:], str(error))


class TaggedRecipients(PureTestCase):
    """Of hardware keys, post-quantum ones among them: pyrage encrypts to them, and cannot decrypt."""

    # The generator of P-256, which is a point like any other.
    x = bytes.fromhex("6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296")
    y = bytes.fromhex("4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5")
    tagged = bech32("age1tag", b"\3" + x)
    # An encapsulation key of ML-KEM-768 (FIPS 203) that is zero everywhere, then the point.
    post_quantum = bech32("age1tagpq", bytes(1184) + b"\4" + x + y)

    def test_they_stand_in_the_header(self) -> None:
        mixed = age.encrypt(b"content", [self.tagged, age.recipient_of(ALICE)])
        self.assertIn(b"\n-> p256tag ", mixed)
        self.assertEqual(age.decrypt(mixed, [ALICE]), b"content")
        alone = age.encrypt(b"content", [self.post_quantum])
        self.assertIn(b"\n-> mlkem768p256tag ", alone)
        age.check_header(alone)
        self.assertRaises(age.NotForUs, age.decrypt, alone, [ALICE])

    def test_a_post_quantum_file_has_no_weaker_reader(self) -> None:
        self.assertRaises(age.BadAgeKey, age.encrypt, b"", [self.post_quantum, age.recipient_of(ALICE)])


class AgeHeaders(PureTestCase):
    def test_its_length(self) -> None:
        sealed = age.encrypt(bytes(100_000), [age.recipient_of(ALICE)])
        size = age.check_header(sealed[: age.MAX_HEADER])
        self.assertRegex(sealed[:size], rb"\n--- [A-Za-z0-9+/]{43}\n\Z")

    def test_limits(self) -> None:
        stanza, end = b"-> grease\n\n", b"--- " + b"A" * 43 + b"\n"
        start = b"age-encryption.org/v1\n"
        most = start + stanza * header.MAX_STANZAS + end
        self.assertEqual(age.check_header(most + b"payload"), len(most))
        self.assertRaises(age.DamagedAge, age.check_header, start + stanza * (header.MAX_STANZAS + 1) + end)
        self.assertRaises(age.DamagedAge, age.check_header, start + end)
        long = start + b"-> " + b"a" * age.MAX_HEADER
        self.assertRaises(age.DamagedAge, age.check_header, long + b"\n\n" + end)

    def test_fewer_stanzas_where_the_reader_says_so(self) -> None:
        sealed = age.encrypt(b"content", [age.recipient_of(ALICE), age.recipient_of(BOB)])
        most = sealed.count(b"\n-> ")
        self.assertEqual(age.decrypt(sealed, [ALICE], most), b"content")
        self.assertRaises(age.DamagedAge, age.decrypt, sealed, [ALICE], most - 1)

    def test_many_identities_are_tried_a_few_at_a_time(self) -> None:
        """pyrage holds the interpreter's lock all the while."""
        own = [age.identity_of(bytes([number]) * 32) for number in range(1, 100)]
        sealed = age.encrypt(b"content", [age.recipient_of(age.new_identity()) for _ in range(20)])
        with mock.patch.object(files.pyrage, "decrypt", wraps=pyrage.decrypt) as decrypt:
            self.assertRaises(age.NotForUs, age.decrypt, sealed, own)
        tried = [len(call.args[1]) for call in decrypt.call_args_list]
        self.assertEqual(sum(tried), len(own))
        self.assertLessEqual(max(tried) * sealed.count(b"\n-> "), files.MAX_TRIALS)
        sealed = age.encrypt(b"content", [age.recipient_of(own[-1])])
        self.assertEqual(age.decrypt(sealed, own), b"content")

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        for start in (b"", b"age-encryption.org/v1\n", b"age-encryption.org/v1\n-> "):
            try:
                age.check_header(start + data)
            except age.DamagedAge as error:
                self.assertNotIn("\n", str(error))

    @given(st.binary(max_size=200))
    def test_any_text_form(self, data: bytes) -> None:
        begin, end = b"-----BEGIN AGE ENCRYPTED FILE-----\n", b"\n-----END AGE ENCRYPTED FILE-----\n"
        for text in (data, begin + data + end):
            try:
                age.unarmor(text)
            except age.DamagedAge as error:
                self.assertNotIn("\n", str(error))
