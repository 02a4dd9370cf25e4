# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR
# How the examples' images are made: one root file system from Debian packages, and small builds on top of it.

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BASE_PACKAGES=caddy,ca-certificates,curl,haproxy,iproute2,memcached,nginx,openssl,php-cli,php-fpm,procps,python3,python3-websockets,redis-server,sdcv

# What the image was made from; when it differs from what is wanted, the image is made again.
INPUTS_LABEL=handover-lab.inputs

# image_is TAG INPUTS: whether the engine has that image, made from exactly that.
image_is() {
    [ "$(docker image inspect --format "{{index .Config.Labels \"$INPUTS_LABEL\"}}" "$1" 2>/dev/null)" = "$2" ]
}

base_inputs() { printf '%s 1\n' "$BASE_PACKAGES" | sha256sum | cut -c 1-16; }

# base_image: handover-lab/debian:12 on the engine that DOCKER_HOST names.
base_image() {
    local inputs
    inputs=$(base_inputs)
    image_is "$LAB_BASE" "$inputs" && return
    # In a subshell, which gives the lock back when it ends.
    (take_lock && import_base_image "$inputs")
}

import_base_image() {
    local inputs=$1 tarball
    tarball=$TOOLS/rootfs/debian-12-$inputs.tar
    [ -e "$tarball" ] || make_root_file_system "$tarball"
    say "importing $LAB_BASE into ${DOCKER_HOST:-the engine of this machine}"
    docker import --change "LABEL $INPUTS_LABEL=$inputs" "$tarball" "$LAB_BASE" >/dev/null
}

make_root_file_system() {
    local archive
    need_root
    have mmdebstrap || apt_install mmdebstrap
    archive=$(debian_archive)
    mkdir -p "$(dirname "$1")"
    say "making a root file system from Debian's packages (about a minute, once)"
    # shellcheck disable=SC2016 # "$1" in a hook is mmdebstrap's
    mmdebstrap --quiet --format=tar --variant=minbase --include="$BASE_PACKAGES" \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook='rm -rf "$1"/var/cache/* "$1"/var/log/*' \
        --customize-hook='mkdir -p "$1"/var/log/nginx "$1"/var/log/redis' \
        --customize-hook='rm -rf "$1"/etc/hostname "$1"/etc/resolv.conf' \
        bookworm "$1.part" "deb [signed-by=$DEBIAN_KEYRING] $archive bookworm main" \
        </dev/null >"$TOOLS/mmdebstrap.log" 2>&1 9>&- || {
        tail -n 20 "$TOOLS/mmdebstrap.log" >&2
        die "mmdebstrap failed (whole log: $TOOLS/mmdebstrap.log)"
    }
    mv "$1.part" "$1"
}

# build_image TAG DIRECTORY [DOCKER-BUILD-ARGUMENT…]: builds it unless the engine has it, made from the same files. In the background,
# two at a time; finish_builds waits for them, and fails if one failed.
BUILDS=()
build_image() {
    if [ ${#BUILDS[@]} -ge 2 ]; then
        wait "${BUILDS[0]}" || exit 1
        BUILDS=("${BUILDS[@]:1}")
    fi
    build_one_image "$@" &
    BUILDS+=($!)
}

finish_builds() {
    local build
    for build in "${BUILDS[@]}"; do wait "$build" || exit 1; done
    BUILDS=()
}

build_one_image() {
    local tag=$1 directory=$2 inputs output
    shift 2
    inputs=$( (base_inputs; printf '%s\n' "$@"; cd "$directory" && find . -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum | cut -c 1-16)
    image_is "$tag" "$inputs" && return
    say "building $tag"
    # The classic builder: the engine and CLI of Debian 12 have no other.
    output=$(DOCKER_BUILDKIT=0 docker build --quiet --label "$INPUTS_LABEL=$inputs" "$@" --tag "$tag" "$directory" 2>&1 </dev/null) || {
        printf '%s\n' "$output" >&2
        die "docker build of $tag failed"
    }
}
