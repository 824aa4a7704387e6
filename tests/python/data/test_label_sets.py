"""Sets of labels: what they refuse, and how much work they are."""

import io
import re

import numpy as np
import pytest

import mcdropout as mcd
from mcdropout.data.labels import as_label_set, as_labels, label_array
from mcdropout.decisions.cases import CalibrationCases


class CountedText(str):
    """Text that counts how often it is compared, and stays itself when it is copied."""

    compared = 0

    def __str__(self):
        return self

    def __eq__(self, other):
        CountedText.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_the_comparisons_of_labels_grow_with_their_number_and_not_with_its_square():
    labels = [CountedText(f"label {number}") for number in range(3000)]
    CountedText.compared = 0
    as_label_set(labels)
    as_labels(labels[::-1], labels)
    label_array(labels)
    mcd.mc_mlp(2, labels=labels, hidden=1)
    codes = np.arange(3000)
    cases = CalibrationCases(codes, codes, np.zeros((3000, 1)), ("std",), tuple(labels))
    assert [cases.code(CountedText(label)) for label in labels] == codes.tolist()
    assert CountedText.compared < 20 * len(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "b", "a", "b"], '`labels` must all be different; got "a" more than once.'),
        ([3, "3"], "`labels` must all be different; got 3 more than once."),
        ([1, True], "`labels` must all be different; got 1 more than once."),
        ({"a"}, "`labels` must be a list of at least two labels; got {'a'}."),
        ({"a": 1, "b": 2}, "`labels` must be a list of at least two labels; got {'a': 1, 'b': 2}."),
        (np.array("ab"), "`labels` must be a list of at least two labels; got array('ab', dtype='<U2')."),
        (b"ab", "`labels` must be a list of at least two labels; got b'ab'."),
        (io.StringIO("a\nb"), "`labels` must be a list of at least two labels; got <_io.StringIO "),
        (["a\0", "b"], 'A label must have no NUL character, which NumPy and R cannot keep; got "a\\x00".'),
        (["a", 1.5], "A label must be a string, a whole number or a truth value; got 1.5."),
    ],
)
def test_what_is_no_set_of_labels_is_refused(labels, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        as_label_set(labels)


def test_truth_values_beside_numbers_are_refused():
    with pytest.raises(ValueError, match="`y` must not have truth values beside numbers; got True at input number 2"):
        as_labels([1, True, 0])


def test_a_message_shows_the_first_of_many_labels():
    with pytest.raises(ValueError, match=r'out of "0", .*, "9" and 20990 more; got "x" at input number 1\.') as caught:
        as_labels(["x"], [str(number) for number in range(21000)])
    assert len(str(caught.value)) < 200
