-- One tree for SQLite and PostgreSQL. Types: TEXT, BIGINT, DOUBLE PRECISION, BOOLEAN only. Ids are UUIDv7 text, times are
-- microseconds since 1970 (UTC), documents are JSON text read whole; what we filter on is a column.

CREATE TABLE machines (
    id TEXT PRIMARY KEY,
    rev BIGINT NOT NULL,
    name TEXT NOT NULL UNIQUE,
    lifecycle TEXT NOT NULL,
    lifecycle_since BIGINT NOT NULL,
    serial TEXT,
    uuid TEXT,
    arch TEXT,
    firmware TEXT,
    rack TEXT,
    u BIGINT,
    boot_intent TEXT,
    image TEXT,
    current_run TEXT,
    doc TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    first_seen_at BIGINT,
    last_seen_at BIGINT,
    accepted_at BIGINT,
    due_at BIGINT,
    lease_owner TEXT,
    lease_until BIGINT,
    fence BIGINT NOT NULL
);
CREATE INDEX machines_due ON machines (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX machines_serial ON machines (serial);
CREATE INDEX machines_uuid ON machines (uuid);

CREATE TABLE machine_macs (
    mac TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    first_seen_at BIGINT NOT NULL
);
CREATE INDEX machine_macs_machine ON machine_macs (machine_id);

CREATE TABLE inventories (
    machine_id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    doc TEXT NOT NULL
);

CREATE TABLE bmcs (
    machine_id TEXT PRIMARY KEY,
    address TEXT NOT NULL UNIQUE,
    login TEXT NOT NULL,
    sealed_password TEXT NOT NULL,
    protocol TEXT,
    identity TEXT NOT NULL,
    power TEXT,
    power_seen_at BIGINT,
    last_ok_at BIGINT,
    fault TEXT,
    auth_failures BIGINT NOT NULL,
    paused_until BIGINT,
    tls_pin TEXT
);

CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    spec TEXT NOT NULL,
    actor TEXT NOT NULL,
    started_at BIGINT NOT NULL,
    ended_at BIGINT
);
CREATE INDEX runs_machine ON runs (machine_id, started_at);

CREATE TABLE steps (
    id TEXT PRIMARY KEY,
    run_id TEXT NOT NULL,
    machine_id TEXT NOT NULL,
    idx BIGINT NOT NULL,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    checkpoint TEXT NOT NULL,
    evidence TEXT NOT NULL,
    note TEXT NOT NULL,
    progress_done BIGINT,
    progress_total BIGINT,
    started_at BIGINT,
    ended_at BIGINT,
    deadline_at BIGINT,
    due_at BIGINT,
    lease_owner TEXT,
    lease_until BIGINT,
    fence BIGINT NOT NULL
);
CREATE INDEX steps_run ON steps (run_id, idx);
CREATE INDEX steps_due ON steps (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX steps_usual ON steps (kind, state, ended_at);

-- Written ahead of each mutating call of a step; an attempt without an end was cut off.
CREATE TABLE attempts (
    step_id TEXT NOT NULL,
    number BIGINT NOT NULL,
    fence BIGINT NOT NULL,
    begun_at BIGINT NOT NULL,
    ended_at BIGINT,
    outcome TEXT,
    PRIMARY KEY (step_id, number)
);

-- Orders to the agent. At most one open order a step.
CREATE TABLE agent_tasks (
    id TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    step_id TEXT,
    fence BIGINT NOT NULL,
    body TEXT NOT NULL,
    state TEXT NOT NULL,
    phase TEXT,
    done BIGINT,
    total BIGINT,
    result TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX agent_tasks_machine ON agent_tasks (machine_id, state);

CREATE TABLE agent_sessions (
    token_hash TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    nonce_hash TEXT NOT NULL,
    session TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX agent_sessions_machine ON agent_sessions (machine_id, created_at);

CREATE TABLE boot_nonces (
    nonce_hash TEXT PRIMARY KEY,
    mac TEXT NOT NULL,
    machine_id TEXT,
    created_at BIGINT NOT NULL,
    used_by TEXT
);

CREATE TABLE boots (
    id TEXT PRIMARY KEY,
    machine_id TEXT,
    mac TEXT NOT NULL,
    client TEXT,
    started_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    marks TEXT NOT NULL
);
CREATE INDEX boots_mac ON boots (mac, started_at);
CREATE INDEX boots_machine ON boots (machine_id, started_at);

CREATE TABLE agent_logs (
    id TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    at BIGINT NOT NULL,
    uptime_secs DOUBLE PRECISION NOT NULL,
    level TEXT NOT NULL,
    line TEXT NOT NULL
);
CREATE INDEX agent_logs_machine ON agent_logs (machine_id, id);

CREATE TABLE phone_homes (
    token_hash TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    called_at BIGINT,
    body TEXT
);
CREATE INDEX phone_homes_run ON phone_homes (run_id);

CREATE TABLE events (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    machine_id TEXT,
    run_id TEXT,
    kind TEXT NOT NULL,
    severity TEXT NOT NULL,
    line TEXT NOT NULL,
    actor TEXT NOT NULL
);
CREATE INDEX events_machine ON events (machine_id, id);

CREATE TABLE images (
    name TEXT PRIMARY KEY,
    sha256 TEXT NOT NULL,
    doc TEXT NOT NULL,
    imported_at BIGINT NOT NULL
);

CREATE TABLE users (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE sessions (
    token_hash TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    csrf TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    last_seen_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);

CREATE TABLE api_tokens (
    id TEXT PRIMARY KEY,
    token_hash TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT,
    last_used_at BIGINT
);

CREATE TABLE audit (
    id TEXT PRIMARY KEY,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    via TEXT NOT NULL,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    detail TEXT NOT NULL
);
