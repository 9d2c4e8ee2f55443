#!/bin/sh
case $1 in bound | renew) ;; *) exit 0 ;; esac
ip addr flush dev "$interface"; ip addr add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route replace default via "${router%% *}" dev "$interface"
: >/etc/resolv.conf; for server in $dns; do echo "nameserver $server" >>/etc/resolv.conf; done
