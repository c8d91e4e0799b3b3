"""The sentences of topics.txt: a set of facts on each of some two dozen topics, and a question for each topic."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import List


@dataclass
class Fact:
    topic: str
    subject: str
    body: str


@dataclass
class Topic:
    name: str
    question: str
    facts: List[Fact] = field(default_factory=list)


def load():
    topics = []
    for line in (Path(__file__).parent / "topics.txt").read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        left, right = (part.strip() for part in line.removeprefix("==").split("|"))
        if line.startswith("=="):
            topics.append(Topic(left, right))
        else:
            topics[-1].facts.append(Fact(topics[-1].name, left, right))
    return topics


TOPICS = load()
FACTS = [fact for topic in TOPICS for fact in topic.facts]
