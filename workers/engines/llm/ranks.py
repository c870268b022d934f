"""How rank 0 leads the others: it tells them every call of its generator, and they make the same ones.

Rank 0 alone reads requests, obeys grammars, looks for stop strings and measures time. What follows from
that goes into the messages; the tokens that it chooses, into the computation itself (`Group.of_first`).
"""

import logging
import os
from collections.abc import Iterable
from typing import Any, NoReturn

import mlx.core as mx
import msgspec

from workers.engines.llm.constraint import Constraint
from workers.engines.llm.decoding import Row, Said
from workers.engines.llm.generator import Generator
from workers.engines.llm.group import Group
from workers.engines.llm.options import Options
from workers.engines.llm.reading import Prompt
from workers.engines.llm.sequence import Sequence
from workers.ranks import LOST, Followers, Link

log = logging.getLogger("ominix.ranks")


class Setup(msgspec.Struct, tag="setup"):
    """The first message, once every rank has its files."""

    slots: int
    options: Options


class Add(msgspec.Struct, tag="add"):
    sequence: Sequence


class Step(msgspec.Struct, tag="step"):
    """`budget` is how many tokens of prompts are read."""

    budget: int


class End(msgspec.Struct, tag="end"):
    """`rows` are indices."""

    rows: list[int]


class Remove(msgspec.Struct, tag="remove"):
    job_id: str


Message = Setup | Add | Step | End | Remove


class Elsewhere(Constraint):
    """A grammar that rank 0 obeys. What it allows is in the tokens that come from there."""

    wants_mask = ended = False

    def __init__(self) -> None:
        self.error = None

    def accept(self, token: int) -> None:
        """Rank 0 does."""


def _plain(value: Any) -> bool:
    if isinstance(value, Constraint):
        return True
    raise NotImplementedError(type(value))


def _elsewhere(kind: type, value: Any) -> Any:
    return Elsewhere()


_encoder = msgspec.msgpack.Encoder(enc_hook=_plain)
_decoder = msgspec.msgpack.Decoder(Message, dec_hook=_elsewhere)


def receive(link: Link) -> Message | None:
    """The next message of rank 0, None when it needs no ranks any more."""
    data = link.receive()
    return None if data is None else _decoder.decode(data)


class Leader:
    """Rank 0's side. Connects the group; its ranks are told how to set up."""

    def __init__(self, followers: Followers, slots: int, options: Options) -> None:
        self._followers = followers
        self.tell(Setup(slots, options))
        self.group = Group()

    def tell(self, message: Message) -> None:
        self._followers.tell(_encoder.encode(message))

    def close(self) -> None:
        self._followers.close()

    def give_up(self, error: Exception) -> NoReturn:
        log.critical("a step failed, and with it all ranks; ending the process", exc_info=error)
        os._exit(LOST)


class Leading:
    """Rank 0's generator: the others are told of each call before it is made."""

    def __init__(self, generator: Generator, leader: Leader) -> None:
        self._generator, self._leader = generator, leader

    @property
    def idle(self) -> bool:
        return self._generator.idle

    @property
    def rows(self) -> list[Row]:
        return self._generator.rows

    def add(self, sequence: Sequence) -> None:
        self._leader.tell(Add(sequence))
        self._generator.add(sequence)

    def step(self) -> tuple[list[Prompt], list[Said]]:
        self._leader.tell(Step(self._generator.pace.budget))
        return self._generator.step()

    def end(self, rows: Iterable[Row]) -> None:
        gone = set(map(id, rows))
        indices = [index for index, row in enumerate(self.rows) if id(row) in gone]
        if indices:
            self._leader.tell(End(indices))
            self._generator.end([self.rows[index] for index in indices])

    def remove(self, job_id: str) -> None:
        self._leader.tell(Remove(job_id))
        self._generator.remove(job_id)


def follow(link: Link, generator: Generator) -> None:
    """Do what rank 0 does, until it needs no ranks any more."""
    while message := receive(link):
        if isinstance(message, Add):
            generator.add(message.sequence)
        elif isinstance(message, Step):
            generator.pace.fixed = message.budget
            generator.step()
        elif isinstance(message, End):
            generator.end([generator.rows[index] for index in message.rows])
        elif isinstance(message, Remove):
            generator.remove(message.job_id)
        if generator.idle:
            mx.clear_cache()
