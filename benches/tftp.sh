# Shared by the TFTP benches; sourced after lib.sh. Starts our server, atftpd and dnsmasq on loopback with the files of
# $1, and measures them in alternating rounds.
tftp_servers() {
    local root=$1
    NETBOOT=$(bench_binary netboot)
    [[ -x $NETBOOT ]] || die "the bench program was not built"
    local atftpd; atftpd=$(peer_dir atftpd)
    command -v dnsmasq >/dev/null || PATH=$(peer_dir dnsmasq-base)/usr/sbin:$PATH
    OURS=127.0.0.1:$(free_port); ATFTPD=127.0.0.1:$(free_port)
    # dnsmasq's TFTP has no port option: it gets an address of its own.
    DNSMASQ=127.0.69.1:69
    exec {stdin}< <(exec sleep 100000)
    STARTED+=($!)
    "$NETBOOT" serve-tftp "$OURS" "$root"/* <&"$stdin" >"$BENCH_DIR/ours.log" 2>&1 & STARTED+=($!)
    "$atftpd/usr/sbin/atftpd" --daemon --no-fork --port "${ATFTPD#*:}" --bind-address 127.0.0.1 --maxthread 1000 --user root.root "$root" \
        >"$BENCH_DIR/atftpd.log" 2>&1 & STARTED+=($!)
    dnsmasq -k --port=0 --conf-file=/dev/null --pid-file= --user=root --enable-tftp --tftp-root="$root" \
        --listen-address=127.0.69.1 --bind-interfaces --tftp-max=2000 >"$BENCH_DIR/dnsmasq.log" 2>&1 & STARTED+=($!)
    local server
    for server in "$OURS" "$ATFTPD" "$DNSMASQ"; do
        "$NETBOOT" load-tftp "$server" "$root/warmup" --clients 1 --fetches 1 --blksize 1468 --windowsize 16 >/dev/null ||
            die "the server at $server does not serve; see $BENCH_DIR/*.log"
    done
}

# tftp_measure NAME ROOT FILE CLIENTS FETCHES : all three servers, medians of $ROUNDS alternating rounds.
tftp_measure() {
    local name=$1 root=$2 file=$3 clients=$4 fetches=$5 round server line
    local -A rates=([ours]="" [atftpd]="" [dnsmasq]="")
    for ((round = 1; round <= ROUNDS; round++)); do
        for server in ours atftpd dnsmasq; do
            local at=$OURS n=$fetches; [[ $server == atftpd ]] && at=$ATFTPD; [[ $server == dnsmasq ]] && at=$DNSMASQ
            # The client fails on any byte that differs, and counts the files it got.
            line=$("$NETBOOT" load-tftp "$at" "$root/$file" --clients "$clients" --fetches "$n" --blksize 1468 --windowsize 16) ||
                die "$server did not deliver the same file"
            [[ $line == *"files=$((clients * n))" ]] || die "$server did not do the same work: $line"
            say "round $round $server: $line"
            rates[$server]+=" $(sed 's/.*mb_per_s=\([0-9.]*\).*/\1/' <<<"$line")"
        done
    done
    local ours status=0
    ours=$(median ${rates[ours]})
    verdict "$name/dnsmasq" "$ours" "$(median ${rates[dnsmasq]})" 2.0 MB/s dnsmasq || status=3
    line=$(verdict "$name" "$ours" "$(median ${rates[atftpd]})" 1.0 MB/s atftpd) || status=3
    [[ $status -eq 0 ]] || line=${line/met=yes/met=no}
    printf '%s\n' "$line"
    return $status
}
