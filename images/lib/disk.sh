# Shared by the image builds: checks for tools, then lays out a GPT disk image that boots from BIOS, from UEFI and from
# UEFI with Secure Boot, without a loop device, a mount or grub-install. Sourced by images/*/build, run as root.
#
#   partition 1  EFI system partition   shim (signed by Microsoft) -> GRUB and kernel (signed by Debian)
#   partition 2  BIOS boot              GRUB core.img; the MBR's boot.img points at it
#   partition 3  root, ext4, last so that it can grow to the end of whatever disk it is written to

set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
T0=$(date +%s)

say() { echo "[$(($(date +%s) - T0))s] $*"; }
die() { echo "$NAME: $*" >&2; exit 1; }

# need "TOOL-OR-FILE PACKAGE" ...: every missing one is named in one message, with the command that installs them.
need() {
    local pair thing package missing=() packages=()
    for pair in "$@"; do
        read -r thing package <<<"$pair"
        if [[ $thing == /* ]]; then [[ -e $thing ]] && continue; else command -v "$thing" >/dev/null && continue; fi
        missing+=("$thing"); packages+=("$package")
    done
    [[ ${#missing[@]} -eq 0 ]] || die "missing: ${missing[*]}
install them with: apt-get install --no-install-recommends $(printf '%s\n' "${packages[@]}" | sort -u | tr '\n' ' ')"
}
DISK_TOOLS=("mke2fs e2fsprogs" "sfdisk fdisk" "mkfs.vfat dosfstools" "mcopy mtools" "zstd zstd" "sha256sum coreutils")

# reuse INPUT...: ends the script when OUT already holds what these inputs make. FORCE=1 builds anyway.
reuse() {
    INPUTS=$( { printf '%s\n' "$@" | grep -v ^/ || true; printf '%s\n' "$@" | grep ^/ | sort | xargs sha256sum | cut -d' ' -f1; } | sha256sum | cut -d' ' -f1)
    local have; have=$(cat "$OUT/$NAME.inputs" 2>/dev/null || true)
    if [[ -z ${FORCE:-} && $have == "$INPUTS" && -f $OUT/$NAME.toml && -f $OUT/$NAME.raw.zst ]] &&
        grep -q "^sha256 = \"$(sha256sum "$OUT/$NAME.raw.zst" | cut -d' ' -f1)\"" "$OUT/$NAME.toml"; then
        say "$OUT/$NAME.raw.zst is already built from the same recipe; FORCE=1 builds it anew"
        exit 0
    fi
    rm -f "$OUT/$NAME.inputs" # until the new build is complete
}

fresh_uuid() { cat /proc/sys/kernel/random/uuid; }

# N bytes of VALUE, least significant first.
le() { local i v=$2; for ((i = 0; i < $1; i++)); do printf "\\x$(printf %02x $((v & 255)))"; v=$((v >> 8)); done; }
# patch FILE OFFSET < bytes
patch() { dd of="$1" bs=1 seek="$2" conv=notrunc status=none; }

# make_root TREE MIB: $WORK/root.ext4 from a directory. GRUB 2.06 cannot read metadata_csum_seed and orphan_file, which
# e2fsprogs 1.47 turns on. Group descriptors are reserved for growth to 8 TiB, and the journal is as large as a disk of
# that size wants, since growing does not change it.
make_root() {
    truncate -s "$2M" "$WORK/root.ext4"
    mke2fs -q -F -t ext4 -L root -U "$ROOT_UUID" -b 4096 -J size="${JOURNAL_MIB:-64}" -E resize=2147483647,lazy_itable_init=0 \
        -O ^metadata_csum_seed,^orphan_file -d "$1" "$WORK/root.ext4"
}

# make_disk BOOTSRC ROOT_MIB: $WORK/disk.raw. BOOTSRC is "" for the host's boot loader packages, or a tree that has them.
make_disk() {
    local src=$1 root_mib=$2 esp_mib=33 raw=$WORK/disk.raw esp=$WORK/esp.fat core=$WORK/core.img
    local bios_lba=$((2048 + esp_mib * 2048)) sectors

    truncate -s ${esp_mib}M "$esp"
    mkfs.vfat -F 32 -s 1 -n ESP -i "$ESP_ID" "$esp" >/dev/null
    cat >"$WORK/stub.cfg" <<STUB
search --no-floppy --fs-uuid --set=root $ROOT_UUID
set prefix=(\$root)/boot/grub
configfile \$prefix/grub.cfg
STUB
    export MTOOLS_SKIP_CHECK=1
    mmd -i "$esp" ::EFI ::EFI/BOOT ::EFI/debian
    # The removable path, which firmware tries by itself. No fbx64.efi beside shim: it would write boot entries and restart.
    mcopy -i "$esp" "$src/usr/lib/shim/shimx64.efi.signed" ::EFI/BOOT/BOOTX64.EFI
    mcopy -i "$esp" "$src/usr/lib/shim/mmx64.efi.signed" ::EFI/BOOT/mmx64.efi
    mcopy -i "$esp" "$src/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed" ::EFI/BOOT/grubx64.efi
    mcopy -i "$esp" "$WORK/stub.cfg" ::EFI/debian/grub.cfg # Debian's signed GRUB looks in /EFI/debian of its own partition

    # "(,gpt3)": the third partition of the disk that GRUB was started from, whatever else is plugged in.
    grub-mkimage -O i386-pc -d "$src/usr/lib/grub/i386-pc" -o "$core" -p '(,gpt3)/boot/grub' \
        biosdisk part_gpt ext2 search search_fs_uuid normal configfile linux serial terminal echo test ls minicmd reboot gzio
    sectors=$((($(stat -c%s "$core") + 511) / 512))
    ((sectors <= 2048)) || die "GRUB's core.img ($sectors sectors) does not fit its partition"
    # diskboot.img, the first sector of core.img, ends with the list of where the rest lies: first LBA (8 bytes), count
    # (2), load segment (2). grub-bios-setup would fill it in; it insists on a mounted file system.
    { le 8 $((bios_lba + 1)); le 2 $((sectors - 1)); le 2 $((0x820)); } | patch "$core" $((0x1f4))

    truncate -s $((1 + esp_mib + 1 + root_mib + 1))M "$raw"
    sfdisk -q "$raw" <<PARTS
label: gpt
unit: sectors
start=2048, size=$((esp_mib * 2048)), type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=ESP
start=$bios_lba, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios
start=$((bios_lba + 2048)), size=$((root_mib * 2048)), type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root
PARTS
    dd if="$esp" of="$raw" bs=1M seek=1 conv=notrunc,sparse status=none
    dd if="$core" of="$raw" bs=512 seek="$bios_lba" conv=notrunc status=none
    dd if="$WORK/root.ext4" of="$raw" bs=1M seek=$((2 + esp_mib)) conv=notrunc,sparse status=none
    # boot.img into the MBR's code area, pointing at core.img; the partition table behind byte 440 stays.
    dd if="$src/usr/lib/grub/i386-pc/boot.img" of="$raw" bs=1 count=440 conv=notrunc status=none
    le 8 "$bios_lba" | patch "$raw" $((0x5c))
}

# pack DEFAULT_USER TITLE: compresses $WORK/disk.raw, and writes the catalogue entry beside it.
pack() {
    local raw=$WORK/disk.raw zst=$OUT/$NAME.raw.zst
    zstd -q -f -T0 "-${ZLEVEL:-6}" "$raw" -o "$zst.new"
    cat >"$WORK/entry.toml" <<TOML
# Made by images/$NAME/build on $(date -u +%FT%TZ).
[[image]]
name = "$NAME"
title = "$2"
arch = "x86_64"
file = "$NAME.raw.zst"
format = "raw.zst"
size_bytes = $(stat -c%s "$zst.new")
sha256 = "$(sha256sum "$zst.new" | cut -d' ' -f1)"
raw_size_bytes = $(stat -c%s "$raw")
raw_sha256 = "$(sha256sum "$raw" | cut -d' ' -f1)"
boots_on = ["bios", "uefi"]
default_user = "$1"
TOML
    sync "$zst.new"
    mv "$zst.new" "$zst"
    cp "$WORK/entry.toml" "$OUT/$NAME.toml"
    echo "$INPUTS" >"$OUT/$NAME.inputs"
    say "$zst: $(($(stat -c%s "$zst") / 1000000)) MB, $(($(stat -c%s "$raw") / 1000000)) MB on disk; catalogue entry $OUT/$NAME.toml"
}
