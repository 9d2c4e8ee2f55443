-- One row an address: who has it, or that something else answers on it.
CREATE TABLE dhcp_leases (
    address TEXT PRIMARY KEY,
    mac TEXT NOT NULL,
    ends_at BIGINT NOT NULL,
    declined BOOLEAN NOT NULL,
    hostname TEXT
);
CREATE INDEX dhcp_leases_mac ON dhcp_leases (mac);
