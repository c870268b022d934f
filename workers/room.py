"""The engine room: the only thread that ever touches MLX, for the whole life of the process."""

import contextlib
import faulthandler
import logging
import os
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable

from workers.engine import Engine, Output, Prepared
from workers.engines import leave_thread
from workers.flight import Flight, Flights
from workers.outlet import Outlet
from workers.priority import Priority

GATHER = 0.06  # seconds at most that a prompt waits for others of its burst: reading them at once
BURST = 4  # is much cheaper. While a burst lasts, so many come
QUIET = 0.008  # in so many seconds
BROKEN = 71  # exit status
LOOK = 0.02  # seconds between two looks whether batch work still has to rest
REARM = 1.0  # seconds; arming starts a thread, too dear for every step

log = logging.getLogger("ominix.engine")


class EngineRoom(threading.Thread):
    """Loads the engine, then adds, steps and aborts. `add`, `abort` and `stop` are the only ways in."""

    def __init__(
        self,
        load: Callable[[], Engine],
        flights: Flights,
        outlet: Outlet,
        hang_timeout: float,
        priority: Priority,
    ) -> None:
        super().__init__(name="engine", daemon=True)
        self._load = load
        self._flights = flights
        self._outlet = outlet
        self._hang_timeout = hang_timeout
        self._priority = priority
        self._inbox: queue.SimpleQueue[tuple[Flight, Prepared] | str | None] = queue.SimpleQueue()
        self._waiting: deque[tuple[Flight, Prepared]] = deque()  # ready, but the engine has no room
        self._running: dict[str, Flight] = {}
        self._gathering_since = 0.0
        self._came = deque([0.0] * BURST, maxlen=BURST)  # when the last prompts did
        self._armed = 0.0
        self._stopping = False
        self.engine: Engine | None = None
        self.failure: Exception | None = None
        self.loaded = threading.Event()
        self.stepping_since: float | None = None  # monotonic; None while idle

    def add(self, flight: Flight, prepared: Prepared) -> None:
        self._inbox.put((flight, prepared))

    def abort(self, job_id: str) -> None:
        """Forget a job that is waiting here or running; any other id is ignored."""
        self._inbox.put(job_id)

    def stop(self) -> None:
        self._inbox.put(None)

    def run(self) -> None:
        try:
            self._start_engine()
            if self.engine:
                self._work()
                self.engine.close()
        except Exception:  # in `abort` or `has_room`: no state to go on from, and no thread to go on in
            log.exception("the engine failed between two steps; ending the process")
            os._exit(BROKEN)
        finally:
            leave_thread()

    def _start_engine(self) -> None:
        try:
            self.engine = self._load()
        except Exception as error:  # told to whoever waits for `loaded`
            self.failure = error
        self.loaded.set()

    def _work(self) -> None:
        while not self._stopping:
            self._read_inbox()
            self._admit()
            if self._running:
                self._go_on()
        self._disarm()

    def _read_inbox(self) -> None:
        """Everything that has come; without anything to step, wait for it."""
        idle = not self._running and (not self._waiting or self._is_gathering())
        if idle:
            self._disarm()
            self._priority.leave()
        timeout = QUIET if self._waiting else None
        try:
            while True:
                self._receive(self._inbox.get(block=idle, timeout=timeout))
                idle = False
        except queue.Empty:
            return

    def _is_gathering(self) -> bool:
        """Whether the prompts that wait are part of a burst of which more is on its way."""
        now = time.monotonic()
        if not self._waiting or now - self._gathering_since > GATHER:
            return False
        if not self._running and len(self._flights) > len(self._waiting):
            return True
        return now - self._came[0] < QUIET

    def _receive(self, message: tuple[Flight, Prepared] | str | None) -> None:
        if message is None:
            self._stopping = True
        elif isinstance(message, str):
            self._drop(message)
        else:
            self._came.append(time.monotonic())
            if not self._waiting:
                self._gathering_since = self._came[-1]
            self._waiting.append(message)

    def _drop(self, job_id: str) -> None:
        if flight := self._running.pop(job_id, None):
            self.engine.abort(job_id)
            flight.land()
        for pair in [pair for pair in self._waiting if pair[0].id == job_id]:
            self._waiting.remove(pair)
            pair[0].land()

    def _admit(self) -> None:
        if self._is_gathering():
            return
        while self._waiting:
            flight, prepared = self._waiting[0]
            if not flight.over and not self.engine.has_room(prepared):
                return
            self._waiting.popleft()
            if flight.over:
                flight.land()
            else:
                self._add(flight, prepared)

    def _add(self, flight: Flight, prepared: Prepared) -> None:
        self._running[flight.id] = flight
        try:
            self.engine.add(prepared)
        except Exception as error:  # costs this job alone
            self._outlet.put([(flight, Output(error=error))])
            self._drop(flight.id)

    def _go_on(self) -> None:
        """One step, unless batch work, and nothing else here, has to make way."""
        flights = [*self._running.values(), *(flight for flight, _ in self._waiting)]
        batch = all(flight.spec.lane == "batch" for flight in flights)
        if batch and self._priority.must_rest():
            self._rest(flights)
        else:
            self._step(batch)

    def _rest(self, flights: list[Flight]) -> None:
        """Wait a moment, or until something comes."""
        self._disarm()
        began = time.monotonic()
        with contextlib.suppress(queue.Empty):
            self._receive(self._inbox.get(timeout=LOOK))
        rested = time.monotonic() - began
        for flight in flights:
            flight.rest(rested)

    def _step(self, batch: bool) -> None:
        self._priority.begin(batch)
        self._arm()
        began = time.monotonic()
        try:
            outputs = self.engine.step()
        except Exception as error:  # costs the jobs of this batch, not the process
            log.exception("a step of the engine failed, and with it %d jobs", len(self._running))
            outputs = [(job_id, Output(error=error)) for job_id in self._running]
        self._priority.end(batch, time.monotonic() - began)
        said = [(self._running[job_id], output) for job_id, output in outputs if job_id in self._running]
        if self._outlet.is_full:
            self._disarm()  # waiting for Redis is no hang
        self._outlet.put(said)
        for flight, output in said:
            if output.last:
                self._running.pop(flight.id, None)
                flight.land()
            elif output.error:
                self._drop(flight.id)

    def _arm(self) -> None:
        """A step that does not return within the hang limit ends the process, GIL or no GIL."""
        now = time.monotonic()
        self.stepping_since = now
        if now - self._armed > REARM:
            self._armed = now
            faulthandler.dump_traceback_later(self._hang_timeout, exit=True, file=sys.__stderr__)

    def _disarm(self) -> None:
        self.stepping_since = None
        if self._armed:
            self._armed = 0.0
            faulthandler.cancel_dump_traceback_later()
