"""Two members that can only dial out, and a third that both are connected to: the task of one runs at the other."""

from __future__ import annotations

from typing import Any

from tests.integration.agents import until
from tests.integration.nodes import Node, NodeCase, threaded
from tests.sandbox.support import archive

UNREACHABLE = "/ip4/127.0.0.1/tcp/1"


class HandoverTest(NodeCase):
    def submit(self, node: Node, **body: Any) -> str:
        """By `Agent.submit`, which knows fixed ports alone."""
        node.settings["CHORUS_API_PORT"] = str(node.ports["api"])
        return node.submit(**body)

    @threaded
    def test_a_task_travels_through_a_member_that_sees_both(self) -> None:
        middle = self.node("middle").start()
        hidden = {"CHORUS_ANNOUNCE": UNREACHABLE, "CHORUS_SANDBOX": "bubblewrap"}
        five = self.joining(middle, "five", CHORUS_AGENT_CAPABILITIES="five", **hidden).start()
        six = self.joining(middle, "six", CHORUS_AGENT_CAPABILITIES="six", **hidden).start()
        until("both at the middle", lambda: middle.members() == {five.peer_id, six.peer_id})
        self.assertEqual((five.members(), six.members()), ({middle.peer_id}, {middle.peer_id}))

        middle.settings["CHORUS_API_PORT"] = str(middle.ports["api"])
        five.settings["CHORUS_API_PORT"] = str(five.ports["api"])
        source = five.upload(archive(self.folder, {"greeting": b"hello\n"}).read_bytes())
        task = self.submit(
            five,
            commands=["cat greeting; cp greeting $CHORUS_OUTPUT"],
            input={"sha256": source},
            required={"capabilities": ["six"]},
        )
        document = five.ended(task)
        self.assertEqual((document["state"], document["exit_code"], document["agent_id"]), ("completed", 0, "six"))
        self.assertEqual(document["scheduler"], middle.peer_id)
        self.assertEqual(middle.task(task)["state"], "completed")
        (row,) = document["artifacts"]
        self.assertEqual(five.blob(row["sha256"]), b"hello\n")
        events = five.events(task)
        output = "".join(event["data"]["text"] for event in events if event["type"] == "output")
        self.assertEqual(output, "hello\n")
        ends = [event["data"]["state"] for event in events if event["type"] == "state"]
        self.assertEqual((ends[0], ends[-1], ends.count("completed")), ("submitted", "completed", 1))

        # Nobody has it: the line says so, and that alone.
        other = self.submit(five, commands=["true"], required={"capabilities": ["seven"]})
        until("a reason", lambda: "no agent has the capability seven" in (five.task(other)["detail"] or ""))
