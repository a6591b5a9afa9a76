"""Names of topics: one spelling, bounded, and never a slash."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from chorus.messages.topics import (
    DYNAMIC,
    EXPERTISE,
    ISSUE,
    MAX_ISSUE,
    MAX_JOINED_TOPICS,
    MAX_PROFILE_TOPICS,
    MAX_VARIABLE,
    PROJECT,
    REPORTS,
    ROLE,
    STATIC,
    BadTopic,
    ProfileTopics,
    canonical,
    expertise_topic,
    issue_topic,
    pattern_of,
    profile_topics,
    project_topic,
    reports_topic,
    role_topic,
)
from chorus.protocols.gossipsub.params import MAX_SUBSCRIPTIONS, MAX_TOPIC_BYTES, MAX_TOPICS_PER_PEER
from tests.support import PureTestCase


class Names(PureTestCase):
    def test_the_published_topics(self) -> None:
        self.assertEqual(
            set(STATIC),
            {
                "chorus/coordination/v1",
                "hmmm/meta-discussion/v1",
                "chorus/election/v1",
                "chorus/decisions",
                "chorus/health",
                "chorus/tasks",
            },
        )
        self.assertEqual(role_topic("developer"), "chorus/role/developer")
        self.assertEqual(expertise_topic("python"), "chorus/expertise/python")
        self.assertEqual(reports_topic("lead-1"), "chorus/reports/lead-1")
        self.assertEqual(project_topic("Team/Tool"), "chorus/project/team%2Ftool")
        self.assertEqual(issue_topic("tool", "#12"), "chorus/project/tool/issue/%2312")

    def test_one_spelling(self) -> None:
        for name, spelt in (
            ("Developer", "developer"),
            (" developer ", "developer"),
            ("C++", "c%2B%2B"),
            ("machine learning", "machine%20learning"),
            ("Straße", "strasse"),
            ("ÉTÉ", "%C3%A9t%C3%A9"),
            ("e\u0301", "%C3%A9"),
            ("a\N{FULLWIDTH SOLIDUS}b", "a%2Fb"),
            ("..", ".."),
        ):
            self.assertEqual(canonical(name), spelt)

    def test_refused(self) -> None:
        for name in ("", "   ", "\N{NO-BREAK SPACE}", "x" * (MAX_VARIABLE + 1), "é" * 27, "\ud800"):
            with self.assertRaises(BadTopic, msg=repr(name)):
                canonical(name)
        with self.assertRaises(BadTopic):
            issue_topic("tool", "1" * (MAX_ISSUE + 1))

    @given(st.text(max_size=40))
    @example("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}")
    @example("\N{GREEK CAPITAL LETTER SIGMA}\N{GREEK SMALL LETTER FINAL SIGMA}")
    @example("\N{COMBINING GREEK YPOGEGRAMMENI}\N{COMBINING ACUTE ACCENT}")
    @settings(max_examples=500, deadline=None)
    def test_every_topic_that_is_made_is_known(self, name):
        for make, pattern in (
            (role_topic, ROLE),
            (expertise_topic, EXPERTISE),
            (reports_topic, REPORTS),
            (project_topic, PROJECT),
            (lambda name: issue_topic(name, "1"), ISSUE),
        ):
            try:
                topic = make(name)
            except BadTopic:
                continue
            self.assertEqual(pattern_of(topic), pattern)
            self.assertTrue(topic.isascii())
            self.assertLessEqual(len(topic), MAX_TOPIC_BYTES)
            self.assertEqual(topic.count("/"), pattern.count("/"))

    def test_longest(self) -> None:
        self.assertLessEqual(len(issue_topic("x" * MAX_VARIABLE, "1" * MAX_ISSUE)), MAX_TOPIC_BYTES)
        project_topic("a/" * 10 + "x" * 108)

    @given(st.text(max_size=60))
    @settings(max_examples=200, deadline=None)
    def test_any_text_is_no_topic_or_a_canonical_one(self, text):
        for topic in (text, f"chorus/role/{text}", f"chorus/project/{text}", f"chorus/project/p/issue/{text}"):
            pattern = pattern_of(topic)
            if pattern is not None and pattern not in STATIC:
                self.assertTrue(topic.isascii() and topic == topic.strip())

    def test_other_spellings_are_not_known(self) -> None:
        for topic in (
            "",
            "chorus",
            "chorus/role",
            "chorus/role/",
            "chorus/role/Developer",
            "chorus/role/%64eveloper",
            "chorus/role/a%2fb",
            "chorus/role/%ff",
            "chorus/role/%",
            "chorus/role/a/b",
            "chorus/role/é",
            "chorus/role/a b",
            "chorus/role/{role}",
            "chorus/role/%20a",
            "chorus/team/x",
            "hmmm/role/x",
            "chorus/project/p/issue/",
            "chorus/project/p/pull/1",
            "chorus/project/p/issue/1/2",
            "chorus/tasks/",
            " chorus/tasks",
            *DYNAMIC,
        ):
            self.assertIsNone(pattern_of(topic), topic)


class Profiles(PureTestCase):
    def test_with_a_role(self) -> None:
        found = profile_topics(role="Developer", expertise=("Python", "C++"), reports_to="lead", agent_id="node1")
        self.assertEqual(
            found.topics,
            (
                "chorus/role/developer",
                "chorus/reports/lead",
                "chorus/reports/node1",
                "chorus/expertise/python",
                "chorus/expertise/c%2B%2B",
            ),
        )
        self.assertEqual(found.left_out, ())

    def test_without_a_role_there_are_none(self) -> None:
        self.assertEqual(profile_topics(role=None, expertise=("python",), reports_to="lead"), ProfileTopics())

    def test_spellings_of_one_name_are_one_topic(self) -> None:
        found = profile_topics(role="a", expertise=("Python", "python", "PYTHON"))
        self.assertEqual(found.topics, ("chorus/role/a", "chorus/expertise/python"))

    def test_bounded(self) -> None:
        words = [f"w{number}" for number in range(100)]
        found = profile_topics(role="a", expertise=words, reports_to="lead", agent_id="me")
        self.assertEqual(len(found.topics), MAX_PROFILE_TOPICS)
        self.assertEqual(found.left_out, tuple(words[MAX_PROFILE_TOPICS - 3 :]))
        self.assertEqual(profile_topics(role="é" * 60, expertise=["x"]).left_out, ("é" * 60,))

    def test_all_together_are_fewer_than_peers_allow(self) -> None:
        most = len(STATIC) + MAX_PROFILE_TOPICS + MAX_JOINED_TOPICS
        self.assertLess(most, min(MAX_SUBSCRIPTIONS, MAX_TOPICS_PER_PEER))
