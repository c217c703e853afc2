"""A door makes one message of what foreign code raises."""

import errno

import pytest

from riskalign.errors import EndpointFailed, InputError, door


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(0), RecursionError(), OSError("no")])
def test_foreign_errors_become_one_line(error: BaseException) -> None:
    with (
        pytest.raises(InputError, match=rf"^file 'a': {type(error).__name__}.*Mend it\.$"),
        door("file 'a'", "Mend it."),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        InputError("ours"),
        EndpointFailed("ours"),
        KeyboardInterrupt(),
        OSError(errno.ENOSPC, "full"),
    ],
)
def test_ours_the_keyboards_and_a_full_disk_pass(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, door("file", "Mend it."):
        raise error
    assert raised.value is error
