"""Usage held against Stripe's sums of it: what we know Stripe took should be what it counted."""

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import release
from app.provider.protocol import BillingProvider
from app.services.catalog import Meter
from app.services.reconcile.differences import Finding
from app.services.usage.forwarding import MINUTE, PAST_SECONDS, SUMS_LAG
from app.values import unix_now

CAUSE = "usage_differs"
_PAGE = 50  # each is a question to Stripe

# What was sent or canceled lately Stripe may still be counting, and of some nobody knows yet: such sums are left for
# another time.
_SUMS = text("""
SELECT usage.subject, usage.meter, usage.amount, usage.events, customers.stripe_id
  FROM (SELECT subject, meter, max(sent_at) FILTER (WHERE status = 'sent') AS sent_at,
               coalesce(sum(quantity) FILTER (WHERE status = 'sent'), 0)::bigint AS amount,
               count(*) FILTER (WHERE status = 'sent') AS events,
               bool_or(attempted_at IS NOT NULL AND (status IN ('pending', 'canceling') OR (
                   status = 'canceled' AND next_attempt_at > now() - CAST(:lag AS interval)))) AS unsettled
          FROM usage_events
         WHERE status IN ('sent', 'pending', 'canceling', 'canceled') AND timestamp >= :start AND timestamp < :end
           AND (subject, meter) > (:subject, :meter)
         GROUP BY subject, meter ORDER BY subject, meter LIMIT :most) AS usage
  LEFT JOIN customers ON NOT customers.deleted
       AND (customers.user_id = usage.subject OR customers.stripe_id = usage.subject)
       AND usage.sent_at < now() - CAST(:lag AS interval) AND NOT usage.unsettled
 ORDER BY usage.subject, usage.meter
""")


class Compared(NamedTuple):
    """What a page of sums shows; `after` is where the next page begins, None behind the last."""

    sums: int
    findings: Sequence[Finding]
    after: str | None


async def compare(
    session: AsyncSession,
    provider: BillingProvider,
    meters: Mapping[str, Meter],
    *,
    after: str | None,
    since: int | None,
) -> Compared:
    """Compare a page of sums by customer and meter, since then (unix seconds) or over all that Stripe still takes.

    Nothing can be mended: which events are missing, or too many, no sum tells.
    """
    now = unix_now()
    start = max(since or 0, now - PAST_SECONDS) // MINUTE * MINUTE + MINUTE
    end = (now - int(SUMS_LAG.total_seconds())) // MINUTE * MINUTE
    subject, meter = json.loads(after) if after else ("", "")
    if start >= end or not meters:
        return Compared(0, [], None)
    asked = {"start": start, "end": end, "subject": subject, "meter": meter, "most": _PAGE, "lag": SUMS_LAG}
    rows = (await session.execute(_SUMS, asked)).all()
    await release(session)
    there = {meter.event_name: meter.id for meter in await provider.list_meters()} if rows else {}
    findings: list[Finding] = []
    compared = 0
    for row in rows:
        known = meters.get(row.meter)
        if row.stripe_id is None or known is None or known.aggregation == "last":
            continue
        compared += 1
        summaries = []
        if known.event_name in there:
            summaries = list(
                await provider.list_meter_summaries(
                    there[known.event_name], customer=row.stripe_id, start_time=start, end_time=end
                )
            )
        theirs = sum((summary.aggregated_value for summary in summaries), start=Decimal(0))
        ours = row.events if known.aggregation == "count" else row.amount
        if theirs != ours:
            findings.append(
                Finding(
                    object="usage",
                    stripe_id=f"{row.stripe_id}/{row.meter}",
                    customer=row.stripe_id,
                    cause=CAUSE,
                    fields={"used": [ours, str(theirs.normalize())]},
                )
            )
    last = rows[-1] if len(rows) == _PAGE else None
    return Compared(compared, findings, None if last is None else json.dumps([last.subject, last.meter]))
