"""Properties of the yamux session: whatever is written comes out, whatever comes in is survived."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from chorus.errors import PeerError
from chorus.protocols.stream import StreamClosed
from chorus.protocols.yamux.frames import INITIAL_WINDOW, YamuxLimits
from chorus.protocols.yamux.stream import YamuxStream
from tests.protocols.yamux_support import Recorder, drain, frame, session
from tests.support import PureTestCase

SMALL = YamuxLimits(
    max_receive_window=INITIAL_WINDOW + 1000,
    growth_budget=2000,
    write_high_water=5000,
    write_low_water=100,
    max_frame_body=40_000,
    max_output=60_000,
)


class End:
    """One end of one stream: what its writer wrote and its receiver heard."""

    def __init__(self, stream: YamuxStream) -> None:
        self.stream = stream
        self.receiver = Recorder()
        self.written = bytearray()
        self.finished = False
        self.broken = False
        stream.set_receiver(self.receiver)


class Sessions(RuleBasedStateMachine):
    """Two sessions, any interleaving of what their owners, their streams and the network may do."""

    @initialize()
    def start(self) -> None:
        self.sides = []
        self.ends: dict[tuple[int, int], End] = {}
        for number in (0, 1):
            side, events = session(number == 0, SMALL, receive=False)
            events.stream_arrived = lambda stream, number=number: self._arrived(number, stream)
            self.sides.append(side)
        self.wires = [bytearray(), bytearray()]

    def _arrived(self, number: int, stream: YamuxStream) -> None:
        stream.session.accept(stream)
        self.ends[number, stream.stream_id] = End(stream)

    def _pick(self, data: st.DataObject) -> End | None:
        live = [end for end in self.ends.values() if not end.receiver.closed]
        return data.draw(st.sampled_from(live)) if live else None

    @rule(number=st.sampled_from((0, 1)), announce=st.booleans())
    def open(self, number: int, announce: bool) -> None:
        if len(self.sides[number].streams) > 6:
            return
        stream = self.sides[number].open_stream()
        self.ends[number, stream.stream_id] = End(stream)
        output = self.sides[number].output
        output.announce(stream) if announce else output.send_opening(stream, b"")

    @rule(data=st.data(), size=st.sampled_from((0, 1, 100, 6000, 70_000, INITIAL_WINDOW)), fill=st.integers(0, 255))
    def write(self, data: st.DataObject, size: int, fill: int) -> None:
        end = self._pick(data)
        if end is None:
            return
        body = bytes([fill]) * size
        try:
            end.stream.write(body)
        except StreamClosed:
            assert end.finished or end.stream.ended
        else:
            end.written += body

    @rule(data=st.data())
    def write_eof(self, data: st.DataObject) -> None:
        if (end := self._pick(data)) is not None:
            end.stream.write_eof()
            end.finished = True

    @rule(data=st.data(), how=st.sampled_from(("close", "reset")))
    def break_off(self, data: st.DataObject, how: str) -> None:
        if (end := self._pick(data)) is not None:
            getattr(end.stream, how)()
            end.finished = end.broken = True
            if how == "reset":
                for other in self.ends.values():
                    if other.stream.stream_id == end.stream.stream_id:
                        other.broken = True

    @rule(data=st.data())
    def pause(self, data: st.DataObject) -> None:
        if (end := self._pick(data)) is not None:
            end.stream.pause_reading()

    @rule(data=st.data())
    def resume(self, data: st.DataObject) -> None:
        if (end := self._pick(data)) is not None:
            end.stream.resume_reading()

    @rule(number=st.sampled_from((0, 1)), slow=st.booleans())
    def socket(self, number: int, slow: bool) -> None:
        side = self.sides[number]
        side.output.pause() if slow else side.output.resume()

    @rule(number=st.sampled_from((0, 1)))
    def send(self, number: int) -> None:
        self.wires[number] += drain(self.sides[number])

    @rule(number=st.sampled_from((0, 1)), sizes=st.lists(st.integers(1, 5000), max_size=8))
    def carry(self, number: int, sizes: list[int]) -> None:
        """Some of the wire's bytes, in pieces of the given sizes."""
        wire = self.wires[number]
        pieces = []
        for size in sizes:
            pieces.append(bytes(wire[:size]))
            del wire[:size]
        self.sides[1 - number].receive_data([piece for piece in pieces if piece], 0.0)

    @invariant()
    def accounts_agree(self) -> None:
        for number, side in enumerate(getattr(self, "sides", ())):
            streams = [end.stream for (owner, _), end in self.ends.items() if owner == number]
            assert side.queued == sum(stream.queued for stream in streams)
            assert side.held == sum(sum(map(len, stream._buffer or ())) for stream in streams)
            assert side._unacknowledged == sum(stream.unacknowledged for stream in side.streams.values())
            assert side.budgets._growth == sum(stream.window_size - INITIAL_WINDOW for stream in side.streams.values())
            assert all(0 <= stream.receive_window <= stream.window_size for stream in streams)
            assert all(stream.send_window >= 0 for stream in streams)

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        for end in list(self.ends.values()):
            end.stream.resume_reading()
        for side in self.sides:
            side.output.resume()
        while True:
            for number in (0, 1):
                self.wires[number] += drain(self.sides[number])
            if not any(self.wires):
                break
            for number in (0, 1):
                wire, self.wires[number] = bytes(self.wires[number]), bytearray()
                self.sides[1 - number].receive_data([wire] if wire else [], 0.0)
        for (number, stream_id), end in self.ends.items():
            peer = self.ends.get((1 - number, stream_id))
            if peer is None:
                assert end.broken
                continue
            heard = bytes(peer.receiver.data)
            assert bytes(end.written).startswith(heard)
            assert len(end.receiver.closed) <= 1
            if not (end.broken or peer.broken):
                assert heard == end.written
                assert bool(peer.receiver.eofs) == end.finished
                assert (end.receiver.closed == [None]) == (end.finished and peer.finished)
            assert end.receiver.writing.count("pause") - end.receiver.writing.count("resume") in (0, 1)


class Interleavings(PureTestCase):
    def test_bytes_out_are_bytes_in(self) -> None:
        run_state_machine_as_test(Sessions, settings=settings(max_examples=100, stateful_step_count=40, deadline=None))


HEADERS = st.builds(
    frame,
    st.sampled_from((0, 0, 0, 1, 1, 2, 3, 4, 256)),
    st.integers(0, 15) | st.integers(0, 65535),
    st.integers(0, 8) | st.integers(0, 2**32 - 1),
    st.sampled_from((0, 0, 1, 5, INITIAL_WINDOW, INITIAL_WINDOW + 1, 2**32 - 1)),
    st.binary(max_size=6),
)


class Hostile(PureTestCase):
    def outcome(self, initiator: bool, chunks: list[bytes]) -> tuple[object, ...]:
        """What one session makes of `chunks`: its end, its streams, what they heard, what it answered."""
        side, events = session(initiator)
        if initiator:
            for _ in range(2):
                stream = side.open_stream()
                stream.set_receiver(Recorder())
                side.output.announce(stream)
            own = list(side.streams.values())
        else:
            own = []
        failed = None
        try:
            for chunk in chunks:
                side.receive_data([chunk], 0.0)
        except PeerError as error:
            failed = type(error)
            side.close(error, 1)
        heard = [(bytes(stream.receiver.data), stream.receiver.eofs) for stream in (*own, *events.arrived)]
        assert events.failures == []
        if failed is None:
            assert set(side.streams.values()) <= {*own, *events.arrived}
        else:
            assert not side.streams
        assert (side.held, side.queued) == (0, 0)
        return failed, heard, events.gone, events.pongs

    @given(st.booleans(), st.lists(HEADERS, max_size=20), st.lists(st.integers(1, 40), max_size=40))
    @settings(max_examples=400, deadline=None)
    def test_frames_of_any_kind_in_any_pieces(self, initiator: bool, frames: list[bytes], cuts: list[int]) -> None:
        whole = b"".join(frames)
        pieces, position = [], 0
        for cut in cuts:
            pieces.append(whole[position : position + cut])
            position += cut
        pieces.append(whole[position:])
        assert self.outcome(initiator, [whole]) == self.outcome(initiator, [piece for piece in pieces if piece])

    @given(st.booleans(), st.binary(max_size=200))
    @settings(max_examples=200, deadline=None)
    def test_any_bytes(self, initiator: bool, data: bytes) -> None:
        self.outcome(initiator, [data])
