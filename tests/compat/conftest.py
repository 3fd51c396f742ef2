"""A place of its own for every program, and the check that nothing of it stays behind."""

from tests.integration.conftest import *  # noqa: F403
from tests.integration.conftest import _deadline, _libuv  # noqa: F401
