"""What several tests of services begin with."""

import pytest
from billing import Account
from using import Usage


@pytest.fixture
async def usage(account: Account) -> Usage:
    """Ada has the basic plan: 10 000 API calls a period."""
    await account.buy(plan="basic")
    await account.deliver_and_process(account.events())
    return Usage(account)
