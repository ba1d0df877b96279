//! PostgreSQL. A lease in `mesh_outbox_relay` lets one of several replicas relay: unlike a session's advisory lock it
//! works through a pooler, and the same transaction that records what is sent proves that the lease is still held.

use super::store::{Statements, store};

/// All in one message. `SET LOCAL` ends with the transaction, so a pooler's next client does not inherit it. The server waits for a
/// lock, or for the next word of a client that is gone, no longer than the lease: until then the row of the lease is locked, and
/// after it somebody else may relay.
fn begin_within(ms: i64) -> String {
    // 0 would be no limit at all, and more is not taken.
    let ms = ms.clamp(1, i64::from(i32::MAX));
    format!(
        "BEGIN; SET LOCAL idle_in_transaction_session_timeout = {ms}; SET LOCAL lock_timeout = {ms}; \
        SET LOCAL statement_timeout = {ms}"
    )
}

/// Replicas that start together must not make the tables at the same moment: the first statement lets one go first.
const SQL: Statements = Statements {
    begin: "BEGIN",
    begin_within,
    migrate: &[
        "SELECT pg_advisory_xact_lock(7307497361520)",
        "CREATE TABLE IF NOT EXISTS mesh_outbox (
            sequence BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            place TEXT NOT NULL,
            order_key TEXT NOT NULL,
            id TEXT NOT NULL,
            deadline_ms BIGINT,
            traceparent TEXT,
            written_ms BIGINT NOT NULL,
            payload BYTEA NOT NULL)",
        "CREATE TABLE IF NOT EXISTS mesh_outbox_refused (
            sequence BIGINT PRIMARY KEY,
            place TEXT NOT NULL,
            order_key TEXT NOT NULL,
            reason TEXT NOT NULL,
            tries INTEGER NOT NULL,
            since_ms BIGINT NOT NULL,
            again_ms BIGINT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS mesh_outbox_turn (
            turn BIGINT PRIMARY KEY,
            at_ms BIGINT NOT NULL,
            sequences TEXT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS mesh_outbox_relay (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            owner TEXT NOT NULL,
            until_ms BIGINT NOT NULL)",
        "INSERT INTO mesh_outbox_relay (one, owner, until_ms) VALUES (1, '', 0) ON CONFLICT DO NOTHING",
    ],
    insert: "INSERT INTO mesh_outbox (place, order_key, id, deadline_ms, traceparent, written_ms, payload)
        VALUES ($1, $2, $3, $4, $5, $6, $7)",
    // A row that is locked is just being claimed or renewed: nobody waits for that.
    claim: "UPDATE mesh_outbox_relay
        SET owner = $1, until_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2
        WHERE one = (SELECT one FROM mesh_outbox_relay
            WHERE one = 1 AND (owner = '' OR until_ms < (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
            FOR UPDATE SKIP LOCKED)",
    release: "UPDATE mesh_outbox_relay SET owner = '', until_ms = 0 WHERE one = 1 AND owner = $1",
    renew: "UPDATE mesh_outbox_relay
        SET until_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint + $2
        WHERE one = 1 AND owner = $1",
    read: "SELECT sequence, place, order_key, id, deadline_ms, traceparent, payload FROM mesh_outbox
        WHERE sequence NOT IN (SELECT value::bigint FROM json_array_elements_text($1::json))
        AND ($2 = '' OR place = $2)
        AND ($2 <> '' OR place NOT IN (SELECT value FROM json_array_elements_text($3::json)))
        AND sequence NOT IN (SELECT sequence FROM mesh_outbox_refused WHERE again_ms > $4)
        AND (order_key = '' OR (place, order_key) NOT IN
            (SELECT place, order_key FROM mesh_outbox_refused WHERE again_ms > $4 AND order_key <> ''))
        AND (order_key = '' OR (place, order_key) NOT IN
            (SELECT line->>0, line->>1 FROM json_array_elements($5::json) AS line))
        ORDER BY sequence LIMIT $6",
    turns: "SELECT turn, at_ms, sequences FROM mesh_outbox_turn",
    existing: "SELECT sequence FROM mesh_outbox
        WHERE sequence = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    delete: [
        "DELETE FROM mesh_outbox
            WHERE sequence = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
        "DELETE FROM mesh_outbox_refused
            WHERE sequence = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    ],
    refuse: "INSERT INTO mesh_outbox_refused AS known (sequence, place, order_key, reason, tries, since_ms, again_ms)
        SELECT sequence, place, order_key, $2, 1, $3, $4 FROM mesh_outbox WHERE sequence = $1
        ON CONFLICT (sequence) DO UPDATE
        SET reason = excluded.reason, tries = known.tries + 1, again_ms = excluded.again_ms",
    delete_turns: "DELETE FROM mesh_outbox_turn
        WHERE turn = ANY (ARRAY(SELECT value::bigint FROM json_array_elements_text($1::json)))",
    add_turn: "INSERT INTO mesh_outbox_turn (turn, at_ms, sequences) VALUES ($1, $2, $3)",
    refused: "SELECT COUNT(*) FROM mesh_outbox_refused",
    state: "SELECT (SELECT COUNT(*) FROM mesh_outbox), (SELECT COUNT(*) FROM mesh_outbox_refused),
        (SELECT written_ms FROM mesh_outbox ORDER BY sequence LIMIT 1)",
};

store!(sqlx::Postgres, SQL);
