import pytest

from riskalign.cli.flags import parse_overrides
from riskalign.errors import InputError


def test_both_spellings() -> None:
    arguments = ["--safe.learning_rate", "1e-5", "--seed=3", "--safe.max-length", "-1"]
    assert parse_overrides(arguments) == [
        "safe.learning_rate=1e-5",
        "seed=3",
        "safe.max_length=-1",
    ]
    assert parse_overrides([]) == []
    assert parse_overrides(["--model=a=b"]) == ["model=a=b"]


@pytest.mark.parametrize("arguments", [["--seed"], ["--seed", "--beta", "1"], ["seed=1"], ["--"]])
def test_bad_flags_are_refused(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="--"):
        parse_overrides(arguments)
