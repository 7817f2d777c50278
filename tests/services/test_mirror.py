"""Never older over newer: the rules by which what Stripe says becomes rows."""

import asyncio
from dataclasses import replace

import pytest
from billing import STRIPE
from sqlalchemy import select

from app import models
from app.db import Sessions
from app.provider.objects import Customer
from app.services import customers, mirror
from app.services.mirror import NO_ROW, AsOf

ADA = Customer(id="cus_ada", email="ada@example.com", metadata={"user_id": "ada"}, created=1)


async def sync(sessions: Sessions, customer: Customer, as_of: AsOf) -> bool:
    async with sessions.begin() as session:
        return await customers.sync(session, customer, as_of=as_of, origin=STRIPE)


async def row(sessions: Sessions) -> models.Customer:
    async with sessions() as session:
        return await session.scalar(select(models.Customer).where(models.Customer.stripe_id == "cus_ada"))


async def test_a_payload_counts_only_if_its_second_is_later(sessions: Sessions) -> None:
    assert await sync(sessions, ADA, AsOf(at=10))
    assert not await sync(sessions, replace(ADA, name="same second"), AsOf(at=10))
    assert not await sync(sessions, replace(ADA, name="older"), AsOf(at=9))
    assert await sync(sessions, replace(ADA, name="newer"), AsOf(at=11))
    assert ((await row(sessions)).name, (await row(sessions)).revision) == ("newer", 2)


async def test_a_fetch_counts_only_if_nobody_wrote_since_it_began(sessions: Sessions) -> None:
    await sync(sessions, ADA, AsOf(at=10))
    async with sessions() as session:
        before = await mirror.revision_of(session, models.Customer, "cus_ada")
    await sync(sessions, replace(ADA, name="meanwhile"), AsOf(at=11))
    assert not await sync(sessions, replace(ADA, name="fetched"), AsOf(at=12, revision=before))
    assert await sync(sessions, replace(ADA, name="fetched again"), AsOf(at=11, revision=before + 1))
    assert (await row(sessions)).name == "fetched again"


async def test_a_fetch_for_a_row_that_was_not_there_loses_to_one_that_came(sessions: Sessions) -> None:
    assert await sync(sessions, ADA, AsOf(at=10, revision=NO_ROW))
    assert not await sync(sessions, replace(ADA, name="late"), AsOf(at=20, revision=NO_ROW))


async def test_of_many_writers_at_once_each_revision_has_one(sessions: Sessions) -> None:
    await sync(sessions, ADA, AsOf(at=10))
    wins = await asyncio.gather(
        *(sync(sessions, replace(ADA, name=f"n{n}"), AsOf(at=20, revision=1)) for n in range(10))
    )
    assert sum(wins) == 1
    assert (await row(sessions)).revision == 2


async def test_many_first_sights_at_once_make_one_row(sessions: Sessions) -> None:
    known = await asyncio.gather(*(sync(sessions, ADA, AsOf(at=10)) for _ in range(10)))
    assert all(known)
    assert (await row(sessions)).revision == 1


async def test_old_news_that_says_what_is_known_changes_nothing_and_needs_no_fetch(sessions: Sessions) -> None:
    await sync(sessions, ADA, AsOf(at=10))
    assert await sync(sessions, ADA, AsOf(at=9))
    assert not await sync(sessions, replace(ADA, name="another"), AsOf(at=10))
    assert ((await row(sessions)).revision, (await row(sessions)).synced_at) == (1, 10)


async def test_a_tombstone_is_not_revived_by_old_news(sessions: Sessions) -> None:
    await sync(sessions, ADA, AsOf(at=10))
    await sync(sessions, replace(ADA, deleted=True), AsOf(at=11))
    assert not await sync(sessions, ADA, AsOf(at=12))
    assert (await row(sessions)).deleted


async def test_a_change_of_nothing_leaves_no_audit_row(sessions: Sessions) -> None:
    await sync(sessions, ADA, AsOf(at=10))
    await sync(sessions, ADA, AsOf(at=11))
    async with sessions() as session:
        rows = (await session.scalars(select(models.AuditRow))).all()
    assert [row.action for row in rows] == ["customer.created"]
    assert "ada@example.com" not in str([row.after for row in rows])


async def test_the_user_of_a_customer_is_settled_at_first_sight(sessions: Sessions) -> None:
    await sync(sessions, ADA, AsOf(at=10))
    await sync(sessions, replace(ADA, metadata={"user_id": "mallory"}), AsOf(at=11))
    assert (await row(sessions)).user_id == "ada"
    impostor = Customer(id="cus_other", metadata={"user_id": "ada"}, created=1)
    with pytest.raises(customers.UserTakenError, match="cus_ada"):
        await sync(sessions, impostor, AsOf(at=12))
    async with sessions.begin() as session:
        await customers.sync(session, impostor, as_of=AsOf(at=12), origin=STRIPE, claim_user=False)
    async with sessions() as session:
        other = await session.scalar(select(models.Customer).where(models.Customer.stripe_id == "cus_other"))
    assert other.user_id is None
