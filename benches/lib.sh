# Shared by the benches; sourced. Work files live under target/bench.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
BENCH_DIR=$PWD/target/bench
ROUNDS=${BENCH_ROUNDS:-5}
mkdir -p "$BENCH_DIR"
say() { printf '%s\n' "$*" >&2; }
die() { printf 'bench: %s\n' "$*" >&2; exit 1; }

# Processes this bench started; ended by id when it ends.
STARTED=()
at_end() { for pid in "${STARTED[@]}"; do kill "$pid" 2>/dev/null || true; done; wait 2>/dev/null || true; }
trap at_end EXIT

# peer_dir PACKAGE... : unpacks Debian packages once, prints the directory.
peer_dir() {
    local dir=$BENCH_DIR/peers/$1
    if [[ ! -f $dir/.done ]]; then
        rm -rf "$dir"; mkdir -p "$dir"
        say "bench: fetching $*"
        (cd "$dir" && apt-get download -q "$@" >/dev/null 2>&1) ||
            { apt-get update -qq >/dev/null && (cd "$dir" && apt-get download -q "$@" >/dev/null); } ||
            die "cannot fetch $*"
        local deb; for deb in "$dir"/*.deb; do dpkg -x "$deb" "$dir" || die "cannot unpack $deb"; done
        touch "$dir/.done"
    fi
    printf '%s\n' "$dir"
}

# bench_binary NAME : builds benches/NAME in release mode, prints the executable. BENCH_BINARY names one built before.
bench_binary() {
    [[ -z ${BENCH_BINARY:-} ]] || { printf '%s\n' "$BENCH_BINARY"; return; }
    # Cargo names the executable with a hash; its JSON tells which.
    cargo bench --quiet --no-run --bench "$1" --message-format=json |
        sed -n 's/.*"executable":"\([^"]*\)".*/\1/p' | tail -1
}

# free_port : a UDP port nobody uses now.
free_port() { python3 -c 'import socket; s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM); s.bind(("127.0.0.1",0)); print(s.getsockname()[1])'; }

# median NUMBER...
median() { printf '%s\n' "$@" | sort -g | awk '{v[NR]=$1} END {print (NR%2) ? v[(NR+1)/2] : (v[NR/2]+v[NR/2+1])/2}'; }

# verdict NAME OURS PEER GOAL UNIT PEER_NAME : prints the line for "ours at least GOAL times the peer"; 3 when missed.
verdict() {
    awk -v n="$1" -v o="$2" -v p="$3" -v g="$4" -v u="$5" -v w="$6" 'BEGIN {
        r = o / p; met = r >= g ? "yes" : "no"
        printf "%s ours=%s%s peer=%s%s(%s) ratio=%.2f goal=%s met=%s\n", n, o, u, p, u, w, r, g, met
        exit met == "yes" ? 0 : 3
    }'
}
