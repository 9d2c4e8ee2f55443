-- Firmware as wanted state: what each model should run, and campaigns that bring machines to it.

CREATE TABLE firmware_baselines (
    model TEXT NOT NULL,
    component TEXT NOT NULL,
    doc TEXT NOT NULL,
    set_at BIGINT NOT NULL,
    PRIMARY KEY (model, component)
);

CREATE TABLE campaigns (
    id TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    doc TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- One machine of a campaign. `due_at` is when it is looked at next; absent when its turn has not come or it has ended.
CREATE TABLE campaign_targets (
    campaign_id TEXT NOT NULL,
    machine_id TEXT NOT NULL,
    wave BIGINT NOT NULL,
    doc TEXT NOT NULL,
    due_at BIGINT,
    lease_owner TEXT,
    lease_until BIGINT,
    fence BIGINT NOT NULL,
    PRIMARY KEY (campaign_id, machine_id)
);
CREATE INDEX campaign_targets_due ON campaign_targets (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX campaign_targets_machine ON campaign_targets (machine_id);
