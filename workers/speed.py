"""How fast the device computes, by what it was seen to do."""


class Speed:
    """Of steps, none of which should take longer than `stall` seconds."""

    def __init__(self, stall: float) -> None:
        self._stall = stall
        self._speed = 0.0  # tokens a second

    @property
    def tokens(self) -> int:
        """What a step of `stall` seconds computes; 0 as long as nothing was measured."""
        return int(self._speed * self._stall)

    def measure(self, tokens: int, seconds: float) -> None:
        """What a step has computed, and how long that took. Small steps are slow, and say nothing; one that
        took too long may have compiled something, so it halves the speed at most."""
        speed = tokens / seconds
        if seconds > self._stall:
            self._speed = max(speed, self._speed / 2)
        else:
            self._speed = max(speed, self._speed)
