-- What BMCs say, collected. Beside the types of 0001 there is BYTEA, for packed samples only: SQLite stores bytes as they are
-- whatever a column is called.

-- When a BMC is asked next. One row a lane, so that one long walk does not hold up the rest; doc is the state of each kind.
CREATE TABLE polls (
    machine_id TEXT NOT NULL,
    lane TEXT NOT NULL,
    due_at BIGINT NOT NULL,
    lease_owner TEXT,
    lease_until BIGINT,
    fence BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (machine_id, lane)
);
CREATE INDEX polls_due ON polls (due_at);

-- Documents that are read whole: what sensors there are and their latest readings, firmware, BIOS settings, capabilities.
CREATE TABLE bmc_sheets (
    machine_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    at BIGINT NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (machine_id, kind)
);

-- Samples of all sensors of a machine, a block an hour; rollups of five minutes, a block a day. Times are whole hours and days
-- since 1970.
CREATE TABLE sample_blocks (
    machine_id TEXT NOT NULL,
    hour BIGINT NOT NULL,
    sealed BOOLEAN NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (machine_id, hour)
);
CREATE INDEX sample_blocks_hour ON sample_blocks (sealed, hour);
CREATE TABLE rollup_blocks (
    machine_id TEXT NOT NULL,
    day BIGINT NOT NULL,
    body BYTEA NOT NULL,
    PRIMARY KEY (machine_id, day)
);
CREATE INDEX rollup_blocks_day ON rollup_blocks (day);

-- Entries of the BMC's own logs. An epoch is one life of a log from clear to clear; ids start again with each.
CREATE TABLE hardware_log (
    id TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    log TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    entry_id TEXT NOT NULL,
    content TEXT NOT NULL,
    at BIGINT,
    received_at BIGINT NOT NULL,
    severity TEXT NOT NULL,
    historical BOOLEAN NOT NULL,
    words TEXT NOT NULL,
    evidence TEXT NOT NULL
);
CREATE UNIQUE INDEX hardware_log_once ON hardware_log (machine_id, log, epoch, entry_id, content);
CREATE INDEX hardware_log_machine ON hardware_log (machine_id, id);
CREATE INDEX hardware_log_evidence ON hardware_log (evidence);

CREATE TABLE log_cursors (
    machine_id TEXT NOT NULL,
    log TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    cursor_doc TEXT NOT NULL,
    read_at BIGINT NOT NULL,
    used BIGINT,
    total BIGINT,
    PRIMARY KEY (machine_id, log)
);

-- What was read, as it was read, under the hash of its text.
CREATE TABLE evidence (
    sha256 TEXT PRIMARY KEY,
    body TEXT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL
);
CREATE INDEX evidence_last ON evidence (last_at);

-- Parts as the BMC lists them, and which serial sat in which place from when to when.
CREATE TABLE parts (
    machine_id TEXT NOT NULL,
    source TEXT NOT NULL,
    kind TEXT NOT NULL,
    serial TEXT,
    doc TEXT NOT NULL,
    PRIMARY KEY (machine_id, source)
);
CREATE INDEX parts_serial ON parts (serial);
CREATE TABLE part_history (
    id TEXT PRIMARY KEY,
    machine_id TEXT NOT NULL,
    source TEXT NOT NULL,
    serial TEXT,
    at BIGINT NOT NULL,
    kind TEXT NOT NULL,
    line TEXT NOT NULL,
    evidence TEXT NOT NULL
);
CREATE INDEX part_history_machine ON part_history (machine_id, id);
CREATE INDEX part_history_serial ON part_history (serial);
CREATE INDEX part_history_evidence ON part_history (evidence);

-- How much a BMC was asked, by whole hours since 1970.
CREATE TABLE bmc_traffic (
    machine_id TEXT NOT NULL,
    hour BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    commands BIGINT NOT NULL,
    polls BIGINT NOT NULL,
    failures BIGINT NOT NULL,
    PRIMARY KEY (machine_id, hour)
);
CREATE INDEX bmc_traffic_hour ON bmc_traffic (hour);

-- Locator LEDs that Hostler lit, and when it puts them out.
CREATE TABLE locator_leds (
    machine_id TEXT PRIMARY KEY,
    lit_at BIGINT NOT NULL,
    off_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    tries BIGINT NOT NULL
);
