"""Calls of functions that draw, kept."""


class Recorder:
    """Calls of functions that draw, kept while they go on as they are."""

    def __init__(self):
        self.calls = []

    def of(self, name, function):
        def call(*args, **kwargs):
            value = function(*args, **kwargs)
            self.calls.append((name, args, kwargs, value))
            return value

        return call

    def next(self, name):
        """The arguments and the value of the next call, which must be of `name`."""
        called, args, _, value = self.calls.pop(0)
        assert called == name, f"{called} was drawn where {name} was read in the source"
        return args, value
