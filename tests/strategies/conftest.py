"""The strategies draw from the contracts and rows of the same small projects as the data checks."""

from tests.data.conftest import make_row as make_row
from tests.data.conftest import project as project
