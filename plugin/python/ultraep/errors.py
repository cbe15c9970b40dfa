"""What can go wrong, one exception per status of the C ABI."""


class UltraepError(Exception):
    """Base of all errors of ultraep. The text has the value, the limit, and the rank concerned."""


class InvalidArgument(UltraepError, ValueError):
    """An argument or the order of calls is wrong; nothing changed. Correct the call."""


class Refused(UltraepError):
    """The daemon refused the join; the text gives both sides' values."""


class TimedOut(UltraepError, TimeoutError):
    """Not yet; the call may be repeated."""


class Failed(UltraepError, RuntimeError):
    """After a plan was agreed a rank could not follow it: treat it like a failed collective.

    Gradients of the step are to be thrown away. Who goes on all the same gets plain placement until
    the group's next generation.
    """


class InternalError(UltraepError, RuntimeError):
    """A defect of ultraep or of the system; the text says which."""
