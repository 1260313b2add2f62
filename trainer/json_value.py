"""Values of decoded JSON: one that is absent, and what they are called in messages."""

from typing import Final


class _Missing:
    """Marks an absent value in a column; never equal to a value of JSON."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


def kind_of(value: object) -> str:
    """What a JSON value is, in words for a message.

    >>> kind_of(None), kind_of(1.5), kind_of("x")
    ('null', 'the float 1.5', "the string 'x'")
    """
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    names = {bool: "the boolean", int: "the integer", float: "the float", str: "the string"}
    text = repr(value)
    return f"{names.get(type(value), 'the value')} {text if len(text) <= 60 else text[:57] + '…'}"


def must(value: object, demand: str) -> str:
    """How a value falls short of a demand, to follow its name in a message.

    >>> must(3, "be an object"), must(MISSING, "be a list")
    ('must be an object, got the integer 3', 'is missing; it must be a list')
    """
    return f"is missing; it must {demand}" if value is MISSING else f"must {demand}, got {kind_of(value)}"
