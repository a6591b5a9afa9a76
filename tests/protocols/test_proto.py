"""The committed protobuf code is what the .proto files say."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterable
from pathlib import Path
from unittest import SkipTest

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

import chorus.protocols.proto
from chorus.protocols.proto import identify_pb2, keys_pb2, noise_pb2, rpc_pb2
from tests.support import PureTestCase

FOLDER = Path(chorus.protocols.proto.__file__).parent
ROOT = FOLDER.parent.parent.parent


def without_json_names(file: FileDescriptorProto) -> bytes:
    """Python keeps a descriptor without the JSON names that protoc writes."""

    def strip(messages: Iterable[DescriptorProto]) -> None:
        for message in messages:
            for field in message.field:
                field.ClearField("json_name")
            strip(message.nested_type)

    strip(file.message_type)
    return file.SerializeToString(deterministic=True)


class GeneratedCodeTests(PureTestCase):
    def test_current(self) -> None:
        try:
            from grpc_tools import protoc
        except ImportError:
            raise SkipTest("grpcio-tools is not installed, so the .proto files cannot be compiled") from None
        files = sorted(str(path.relative_to(ROOT)) for path in FOLDER.glob("*.proto"))
        self.assertGreaterEqual(len(files), 7)
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "set"
            self.assertEqual(protoc.main(["protoc", f"-I{ROOT}", f"--descriptor_set_out={target}", *files]), 0)
            compiled = FileDescriptorSet.FromString(target.read_bytes())
        for file in compiled.file:
            module = importlib.import_module(file.name.removesuffix(".proto").replace("/", ".") + "_pb2")
            committed = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
            self.assertEqual(
                without_json_names(committed), without_json_names(file), f"run scripts/gen-proto: {file.name}"
            )
            self.assertTrue((ROOT / file.name.replace(".proto", "_pb2.pyi")).exists(), file.name)


class WireTests(PureTestCase):
    def test_rsa_type_is_written_although_zero(self) -> None:
        encoded = keys_pb2.PublicKey(Type=keys_pb2.RSA, Data=b"k").SerializeToString()
        self.assertEqual(encoded, bytes.fromhex("08001201") + b"k")

    def test_empty_data_of_a_message_is_kept(self) -> None:
        message = rpc_pb2.Message.FromString(bytes.fromhex("1200"))
        self.assertTrue(message.HasField("data"))
        self.assertFalse(message.HasField("seqno"))
        self.assertEqual(message.SerializeToString(), bytes.fromhex("1200"))

    def test_from_and_message_ids_are_bytes(self) -> None:
        message = rpc_pb2.Message(**{"from": b"\xff\x00"})
        self.assertEqual(getattr(rpc_pb2.Message.FromString(message.SerializeToString()), "from"), b"\xff\x00")
        control = rpc_pb2.ControlMessage(idontwant=[rpc_pb2.ControlIDontWant(messageIDs=[b"\xfe"])])
        self.assertEqual(control.SerializeToString(), bytes.fromhex("2a030a01fe"))

    def test_cve_2025_4565_recursion(self) -> None:
        """Nested groups of an unknown field: refused, not a crash."""
        from google.protobuf.message import DecodeError

        for depth in (10_000, 100_000):
            with self.assertRaises(DecodeError):
                rpc_pb2.RPC.FromString(b"\x7b" * depth + b"\x7c" * depth)

    def test_strings_that_are_not_utf8_fail_to_decode(self) -> None:
        """Under proto2 they would come out as bytes, where a str is promised."""
        from google.protobuf.message import DecodeError

        for message, encoded in (
            (rpc_pb2.RPC, "0a041202fffe"),
            (rpc_pb2.Message, "2202fffe"),
            (rpc_pb2.ControlGraft, "0a02fffe"),
            (identify_pb2.Identify, "1a02fffe"),
            (noise_pb2.NoiseExtensions, "1202fffe"),
        ):
            with self.assertRaises(DecodeError, msg=message.DESCRIPTOR.name):
                message.FromString(bytes.fromhex(encoded))
