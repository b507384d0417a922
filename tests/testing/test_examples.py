"""The options with which the kit makes a component that it was given none for."""

from pydantic import Field

from flctl import Transform
from flctl.testing.examples import or_examples, unexplained_options


class Drawn(Transform):
    """Has one option of each kind."""

    name = "drawn"

    class Config(Transform.Config):
        needed: int = Field(examples=[3, 4])
        seed: int | None = Field(None, examples=[7])
        plain: float = 0.5


def test_examples_are_taken_of_options_with_and_without_a_default():
    assert or_examples(None, Drawn) == {"needed": 3, "seed": 7}


def test_options_that_are_given_are_taken_as_they_are():
    assert or_examples({"needed": 1}, Drawn) == {"needed": 1}


def test_only_an_option_without_a_default_needs_an_example():
    assert unexplained_options(Drawn) == []
    Drawn.Config.model_fields["needed"].examples = None
    assert unexplained_options(Drawn) == ["needed"]
