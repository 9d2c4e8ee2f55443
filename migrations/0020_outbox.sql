-- Alerts: what is told (the outbox), to whom, and how telling it went.

-- One row per thing that alerts are about; its counter orders its notices.
CREATE TABLE alert_subjects (
    subject TEXT PRIMARY KEY,
    machine_id TEXT,
    last_seq BIGINT NOT NULL,
    is_open BOOLEAN NOT NULL,
    opened_at BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);
CREATE INDEX alert_subjects_open ON alert_subjects (is_open);
CREATE INDEX alert_subjects_machine ON alert_subjects (machine_id);

-- Written in the transaction that causes it. Never changed.
CREATE TABLE notices (
    id TEXT PRIMARY KEY,
    subject TEXT NOT NULL,
    seq BIGINT NOT NULL,
    at BIGINT NOT NULL,
    doc TEXT NOT NULL
);
CREATE UNIQUE INDEX notices_order ON notices (subject, seq);

CREATE TABLE alert_targets (
    id TEXT PRIMARY KEY,
    rev BIGINT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    doc TEXT NOT NULL,
    -- Sealed: the key that signs or logs in; the one before it still signs until then.
    sealed_secret TEXT,
    sealed_old_secret TEXT,
    old_secret_until BIGINT,
    -- When its open subjects are told again (receivers that forget what is not repeated).
    repeat_at BIGINT,
    created_at BIGINT NOT NULL
);

-- One notice for one target.
CREATE TABLE alert_deliveries (
    notice_id TEXT NOT NULL,
    target_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    seq BIGINT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    due_at BIGINT,
    lease_owner TEXT,
    lease_until BIGINT,
    fence BIGINT NOT NULL,
    ended_at BIGINT,
    status BIGINT,
    answer TEXT NOT NULL,
    PRIMARY KEY (notice_id, target_id)
);
CREATE INDEX alert_deliveries_due ON alert_deliveries (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX alert_deliveries_order ON alert_deliveries (target_id, subject, seq);
CREATE INDEX alert_deliveries_newest ON alert_deliveries (created_at);

-- The other side's name for a subject: one ticket per cause.
CREATE TABLE alert_tickets (
    target_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    external_id TEXT NOT NULL,
    is_open BOOLEAN NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (target_id, subject)
);

-- What the other side told us, once per message id.
CREATE TABLE alert_replies (
    target_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    subject TEXT NOT NULL,
    machine_id TEXT,
    at BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (target_id, message_id)
);
CREATE INDEX alert_replies_subject ON alert_replies (subject, at);
