"""`twistd chorus hap`: the same node for a person. It joins, announces the role `human`, and executes nothing."""

from __future__ import annotations

import signal

from tests.integration.agents import until
from tests.integration.nodes import NodeCase, need_bubblewrap, threaded


class HapTest(NodeCase):
    @threaded
    def test_a_person_joins(self) -> None:
        need_bubblewrap()
        agent = self.node("agent", CHORUS_SANDBOX="bubblewrap", CHORUS_AGENT_ROLE="developer").start()
        person = self.joining(agent, "person", "hap").start()
        self.together(agent, person)
        self.assertEqual(person.status()["role"], "human")
        self.assertEqual(person.status()["load"]["maximum"], 0)
        self.assertEqual(person.probe("/health")[0], 200)
        self.assertEqual(person.probe("/ready"), (200, {"status": "ready", "failing": []}))

        until("the person's role", lambda: agent.peers()[0]["role"] == "human")
        seen = until("the person's availability", lambda: agent.peers()[0]["availability"])
        self.assertEqual((seen["max_tasks"], seen["status"], seen["available"]), (0, "busy", False))

        # Nothing is given to a person; the task says what it waits for.
        waiting = agent.submit(commands=["true"], required={"role": "human"})
        until("the reason for waiting", lambda: "executes tasks" in (agent.task(waiting)["detail"] or ""))
        document = agent.task(waiting)
        self.assertEqual(document["state"], "submitted")
        self.assertEqual(document["detail"], "no suitable agent executes tasks (1 agent that may run 0)")

        # A person submits, and the agent does it.
        until("the agent's capabilities", lambda: person.peers()[0]["capabilities"])
        task = person.submit(commands=["echo for a person"])
        done = person.ended(task)
        self.assertEqual((done["state"], done["agent_id"]), ("completed", "agent"))
        self.assertEqual(agent.task(waiting)["state"], "submitted")
        person.signal(signal.SIGTERM)
        self.assertEqual(self.ends(person), 0, person.tail())
