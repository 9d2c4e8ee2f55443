# Shared by the benches of the whole service; sourced after lib.sh. 1,000 machines are told to both: to ours by a packing list,
# to OpenStack Ironic (its all-in-one process, SQLite, no authentication, fake hardware) by its API. Neither has a BMC to ask.
MACHINES=1000
IRONIC=$BENCH_DIR/ironic
IRONIC_URL=http://127.0.0.1:16385

# service_binary : the release build. BENCH_HOSTLER names one built before.
service_binary() {
    [[ -z ${BENCH_HOSTLER:-} ]] || { printf '%s\n' "$BENCH_HOSTLER"; return; }
    cargo build --quiet --release --bin hostler
    printf '%s\n' "$PWD/${CARGO_TARGET_DIR:-target}/release/hostler"
}

# answers URL : waits until it does, at most two minutes.
answers() {
    local n
    for ((n = 0; n < 12000; n++)); do
        curl -sf -o /dev/null --max-time 2 "$1" && return
        sleep 0.01
    done
    die "$1 did not answer within two minutes"
}

seconds_since() { awk -v a="$1" -v b="$(date +%s.%N)" 'BEGIN { printf "%.3f", b - a }'; }
# stop PID : asks it to end and waits.
stop() { kill "$1" 2>/dev/null || true; wait "$1" 2>/dev/null || true; }

# ours_begin STATE : sets OURS_PID and OURS_URL; answered when this returns.
ours_begin() {
    OURS_URL=http://127.0.0.1:$(free_port)
    "$HOSTLER" serve --state "$1" --listen "${OURS_URL#http://}" >>"$1.log" 2>&1 &
    OURS_PID=$!; STARTED+=("$OURS_PID")
    answers "$OURS_URL/healthz"
}
# ours_count STATE : machines that the API lists.
ours_count() { "$HOSTLER" machine list --state "$1" --json | grep -o '"lifecycle"' | wc -l; }
# ours_state DIR : a state directory that knows the machines.
ours_state() {
    rm -rf "$1"; mkdir -p "$1"
    { echo "serial,mac,name,rack,u"
      for ((n = 0; n < MACHINES; n++)); do
          printf 'BENCH%05d,52:54:00:be:%02x:%02x,n%06d,r%d,%d\n' "$n" $((n / 256)) $((n % 256)) "$n" $((n / 40)) $((n % 40 + 1))
      done; } > "$1.csv"
    ours_begin "$1"
    "$HOSTLER" racks import "$1.csv" --state "$1" >/dev/null || die "the packing list was not taken"
    [[ $(ours_count "$1") -eq $MACHINES ]] || die "ours lists $(ours_count "$1") machines, not $MACHINES"
    stop "$OURS_PID"
}

ironic_setup() {
    [[ -f $IRONIC/.done ]] && return
    say "bench: installing Ironic"
    rm -rf "$IRONIC"; mkdir -p "$IRONIC"/ir/{log,tftp,http}
    python3 -m venv "$IRONIC/v"
    "$IRONIC/v/bin/pip" install -q --disable-pip-version-check 'ironic>=29,<40' sushy pyghmi || die "Ironic cannot be installed"
    cat > "$IRONIC/ironic.conf" <<END
[DEFAULT]
auth_strategy = noauth
rpc_transport = none
host = ironic-bench
my_ip = 127.0.0.1
state_path = $IRONIC/ir
tempdir = $IRONIC/ir
log_dir = $IRONIC/ir/log
enabled_hardware_types = fake-hardware
enabled_boot_interfaces = fake
enabled_console_interfaces = no-console
enabled_deploy_interfaces = fake
enabled_firmware_interfaces = no-firmware
enabled_inspect_interfaces = fake
enabled_management_interfaces = fake
enabled_network_interfaces = noop
enabled_power_interfaces = fake
enabled_raid_interfaces = no-raid
enabled_rescue_interfaces = no-rescue
enabled_storage_interfaces = noop
enabled_vendor_interfaces = no-vendor
enabled_bios_interfaces = no-bios
default_network_interface = noop
[api]
host_ip = 127.0.0.1
port = ${IRONIC_URL##*:}
max_limit = 1000
[database]
connection = sqlite:///$IRONIC/ir/ironic.sqlite
[conductor]
automated_clean = false
[pxe]
tftp_root = $IRONIC/ir/tftp
[deploy]
http_root = $IRONIC/ir/http
http_url = http://127.0.0.1:16380
[oslo_concurrency]
lock_path = $IRONIC/ir
[dhcp]
dhcp_provider = none
END
    "$IRONIC/v/bin/ironic-dbsync" --config-file "$IRONIC/ironic.conf" create_schema >/dev/null 2>&1 || die "Ironic's database cannot be made"
    ironic_begin
    say "bench: telling Ironic $MACHINES machines"
    local n
    for ((n = 0; n < MACHINES; n++)); do
        printf 'next\nurl = "%s/v1/nodes"\nrequest = POST\noutput = /dev/null\nheader = "Content-Type: application/json"\n' "$IRONIC_URL"
        printf 'header = "X-OpenStack-Ironic-API-Version: 1.82"\n'
        printf 'data = "{\\"driver\\":\\"fake-hardware\\",\\"name\\":\\"n%06d\\",\\"properties\\":{\\"cpu_arch\\":\\"x86_64\\"}}"\n' "$n"
    done | sed 1d > "$IRONIC/nodes.curl"
    curl -s -f --config "$IRONIC/nodes.curl" || die "Ironic did not take the machines"
    [[ $(ironic_count) -eq $MACHINES ]] || die "Ironic lists $(ironic_count) machines, not $MACHINES"
    ironic_end
    touch "$IRONIC/.done"
}
ironic_count() { curl -sf "$IRONIC_URL/v1/nodes?limit=1000" | grep -o '"provision_state"' | wc -l; }
# One master and one worker process: ended as a group, by their ids.
ironic_begin() {
    "$IRONIC/v/bin/ironic" --config-file "$IRONIC/ironic.conf" >/dev/null 2>&1 &
    IRONIC_PID=$!; STARTED+=("$IRONIC_PID")
    answers "$IRONIC_URL/"
}
ironic_pids() { printf '%s\n' "$IRONIC_PID"; cat "/proc/$IRONIC_PID/task/$IRONIC_PID/children" 2>/dev/null | tr ' ' '\n' | grep . || true; }
ironic_end() { stop "$IRONIC_PID"; }
# resident_mib PID... : their resident memory together.
resident_mib() { local pid; for pid in "$@"; do awk '$1 == "VmRSS:" { print $2 }' "/proc/$pid/status"; done | awk '{ s += $1 } END { printf "%.1f", s / 1024 }'; }
