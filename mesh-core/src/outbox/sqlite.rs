//! SQLite. One file is one machine; of several processes on one file the lease in `mesh_outbox_relay` lets one relay.

use super::store::{Statements, store};

/// AUTOINCREMENT: a sequence is never given twice, so a record of what was sent can't mean a later row.
const SQL: Statements = Statements {
    // A transaction that reads first and writes then fails at once when another has written between the two.
    begin: "BEGIN IMMEDIATE",
    // A process that ends takes its locks with it; there is no other host.
    begin_within: |_| "BEGIN IMMEDIATE".to_owned(),
    migrate: &[
        "CREATE TABLE IF NOT EXISTS mesh_outbox (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            place TEXT NOT NULL,
            order_key TEXT NOT NULL,
            id TEXT NOT NULL,
            deadline_ms INTEGER,
            traceparent TEXT,
            written_ms INTEGER NOT NULL,
            payload BLOB NOT NULL)",
        "CREATE TABLE IF NOT EXISTS mesh_outbox_refused (
            sequence INTEGER PRIMARY KEY,
            place TEXT NOT NULL,
            order_key TEXT NOT NULL,
            reason TEXT NOT NULL,
            tries INTEGER NOT NULL,
            since_ms INTEGER NOT NULL,
            again_ms INTEGER NOT NULL)",
        "CREATE TABLE IF NOT EXISTS mesh_outbox_turn (
            turn INTEGER PRIMARY KEY,
            at_ms INTEGER NOT NULL,
            sequences TEXT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS mesh_outbox_relay (
            one INTEGER PRIMARY KEY CHECK (one = 1),
            owner TEXT NOT NULL,
            until_ms INTEGER NOT NULL)",
        "INSERT OR IGNORE INTO mesh_outbox_relay (one, owner, until_ms) VALUES (1, '', 0)",
    ],
    insert: "INSERT INTO mesh_outbox (place, order_key, id, deadline_ms, traceparent, written_ms, payload)
        VALUES ($1, $2, $3, $4, $5, $6, $7)",
    claim: "UPDATE mesh_outbox_relay
        SET owner = $1, until_ms = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + $2
        WHERE one = 1 AND (owner = '' OR until_ms < CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER))",
    release: "UPDATE mesh_outbox_relay SET owner = '', until_ms = 0 WHERE one = 1 AND owner = $1",
    renew: "UPDATE mesh_outbox_relay
        SET until_ms = CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER) + $2
        WHERE one = 1 AND owner = $1",
    read: "SELECT sequence, place, order_key, id, deadline_ms, traceparent, payload FROM mesh_outbox
        WHERE sequence NOT IN (SELECT value FROM json_each($1))
        AND ($2 = '' OR place = $2)
        AND ($2 <> '' OR place NOT IN (SELECT value FROM json_each($3)))
        AND sequence NOT IN (SELECT sequence FROM mesh_outbox_refused WHERE again_ms > $4)
        AND (order_key = '' OR (place, order_key) NOT IN
            (SELECT place, order_key FROM mesh_outbox_refused WHERE again_ms > $4 AND order_key <> ''))
        AND (order_key = '' OR (place, order_key) NOT IN
            (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each($5)))
        ORDER BY sequence LIMIT $6",
    turns: "SELECT turn, at_ms, sequences FROM mesh_outbox_turn",
    existing: "SELECT sequence FROM mesh_outbox WHERE sequence IN (SELECT value FROM json_each($1))",
    delete: [
        "DELETE FROM mesh_outbox WHERE sequence IN (SELECT value FROM json_each($1))",
        "DELETE FROM mesh_outbox_refused WHERE sequence IN (SELECT value FROM json_each($1))",
    ],
    refuse: "INSERT INTO mesh_outbox_refused (sequence, place, order_key, reason, tries, since_ms, again_ms)
        SELECT sequence, place, order_key, $2, 1, $3, $4 FROM mesh_outbox WHERE sequence = $1
        ON CONFLICT (sequence) DO UPDATE SET reason = excluded.reason, tries = tries + 1, again_ms = excluded.again_ms",
    delete_turns: "DELETE FROM mesh_outbox_turn WHERE turn IN (SELECT value FROM json_each($1))",
    add_turn: "INSERT INTO mesh_outbox_turn (turn, at_ms, sequences) VALUES ($1, $2, $3)",
    refused: "SELECT COUNT(*) FROM mesh_outbox_refused",
    state: "SELECT (SELECT COUNT(*) FROM mesh_outbox), (SELECT COUNT(*) FROM mesh_outbox_refused),
        (SELECT written_ms FROM mesh_outbox ORDER BY sequence LIMIT 1)",
};

store!(sqlx::Sqlite, SQL);
