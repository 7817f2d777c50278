"""The statement that charges whatever has queued, and the one that looks again for keys."""

# $1 to $11 are what is asked, one array per column; $12 is now. Locked accounts are left out, so that this never waits:
# they take the other way. Of each account's queue the first are charged as long as the grant in hand lasts. For one
# order the parts of this statement cost more than its rows: it has no more of them than it needs. LATERAL with a LIMIT
# leaves no other way than to look each key up: a plan made while the table is empty would read all of it, and is kept.
CHARGE = """
WITH seen AS MATERIALIZED (
    SELECT *, free + paid - running AS balance_after,
           known IS NULL AND status = 'active' AND (expires_next IS NULL OR expires_next > $12)
           AND running <= hand AND free + paid - running > notice_at AS fits
      FROM (SELECT asked.*, k.id AS known, k.fingerprint AS known_fingerprint, k.account_id AS known_account,
                   k.balance_after AS known_balance_after, k.expires_at AS known_expires_at, k.created AS known_created,
                   mine.id AS account_id, mine.status, free, paid, held, owed, used, hand, hand_grant, hand_book,
                   notice_at, expires_next,
                   sum(asked.quantity) FILTER (WHERE k.id IS NULL AND mine.id IS NOT NULL)
                       OVER (PARTITION BY asked.user_id ORDER BY ord ROWS UNBOUNDED PRECEDING) AS running
              FROM unnest($1::int[], $2::uuid[], $3::text[], $4::text[], $5::bytea[], $6::int[], $7::bigint[],
                          $8::bigint[], $9::text[], $10::text[], $11::text[])
                AS asked (ord, id, user_id, key, fingerprint, quantity, hold_until, amount_minor, currency, description,
                          metadata)
              LEFT JOIN LATERAL (SELECT * FROM credit_charges WHERE key = asked.key LIMIT 1) AS k ON true
              LEFT JOIN LATERAL (SELECT * FROM credit_accounts WHERE user_id = asked.user_id
                                    FOR NO KEY UPDATE SKIP LOCKED) AS mine ON true) AS queued
), debited AS (
    UPDATE credit_accounts AS a
       SET hand = a.hand - total,
           free = a.free - CASE a.hand_book WHEN 'free' THEN total ELSE 0 END,
           paid = a.paid - CASE a.hand_book WHEN 'free' THEN 0 ELSE total END,
           held = a.held + holding,
           used = a.used + total - holding
      FROM (SELECT account_id, sum(quantity) AS total,
                   coalesce(sum(quantity) FILTER (WHERE hold_until IS NOT NULL), 0) AS holding
              FROM seen WHERE fits GROUP BY account_id) AS totals
     WHERE a.id = totals.account_id
), charged AS (
    INSERT INTO credit_charges (id, account_id, key, fingerprint, status, quantity, captured, amount_minor, currency,
                                description, metadata, balance_after, expires_at, created)
    SELECT id, account_id, key, fingerprint, CASE WHEN hold_until IS NULL THEN 'captured' ELSE 'held' END, quantity,
           CASE WHEN hold_until IS NULL THEN quantity ELSE 0 END, amount_minor, currency, description,
           metadata::jsonb, balance_after, hold_until, $12
      FROM seen WHERE fits
), moved AS (
    INSERT INTO credit_transfers (account_id, kind, source, destination, amount, grant_id, charge_id, balance_after,
                                  created)
    SELECT account_id, CASE WHEN hold_until IS NULL THEN 'charge' ELSE 'hold' END, hand_book,
           CASE WHEN hold_until IS NULL THEN 'consumed' ELSE 'held' END, quantity, hand_grant, id, balance_after, $12
      FROM seen WHERE fits ORDER BY ord
)
SELECT fits, balance_after, account_id, status, free, paid, held, owed, used, hand_book, expires_next, known,
       known_fingerprint, known_account, known_balance_after, known_expires_at, known_created
  FROM seen ORDER BY ord
"""
MADE = "SELECT key FROM credit_charges WHERE key = ANY($1::text[])"
