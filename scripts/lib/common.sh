# shellcheck shell=bash
# What the scripts of this folder share: messages, version checks, Debian packages of other releases.
# Sourced with `set -euo pipefail` in force.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
TOOLS=$ROOT/target/tools
# What private engines and the registry keep; it must lie on a file system that overlay2 can work on.
export LAB_DATA=${HANDOVER_LAB_DATA:-/var/lib/handover-lab}
export LAB_RUN=${HANDOVER_LAB_RUN:-/run/handover-lab}
# The image that every other image of the lab and the examples starts from (scripts/images).
export LAB_BASE=handover-lab/debian:12

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() { say "error: $*"; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
# usage: the comment that the script begins with, and the exit code of a wrong command line.
usage() { sed -n '3,/^set /{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 64; }
need_root() { [ "$(id -u)" = 0 ] || die "this needs root (it installs packages or makes network namespaces)"; }

# at_least HAVE WANT: whether version HAVE is WANT or newer.
at_least() {
    [ -n "$1" ] && [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# wait_for SECONDS COMMAND…: until the command succeeds; false when the time is over.
wait_for() {
    local deadline=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$(date +%s)" -lt "$deadline" ] || return 1
        sleep 0.1
    done
}

# One script at a time may change what is installed. The lock is on descriptor 9, which daemons must not inherit; the scripts that
# the holder calls go in with it.
take_lock() {
    [ -z "${HANDOVER_LOCKED:-}" ] || return 0
    mkdir -p "$TOOLS"
    exec 9>"$TOOLS/.lock"
    flock 9
    export HANDOVER_LOCKED=1
}

# apt_install PACKAGE…: those that are not installed yet, and never at the price of one that is.
apt_install() {
    local package missing=()
    for package in "$@"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] || apt_latest "${missing[@]}"
}

# apt_latest PACKAGE…: the newest that the machine's sources have.
apt_latest() {
    need_root
    say "installing $*"
    refresh_machine_lists
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends --no-remove \
        -o Dpkg::Use-Pty=0 "$@" </dev/null >"$TOOLS/apt.log" 2>&1 9>&- || {
        tail -n 20 "$TOOLS/apt.log" >&2
        die "apt-get could not install $* (whole log: $TOOLS/apt.log)"
    }
}

# The machine's own package lists, fetched at most once a run; a source of somebody else's that fails does not matter here.
refresh_machine_lists() {
    [ -z "${LISTS_REFRESHED:-}" ] || return 0
    mkdir -p "$TOOLS"
    apt-get update -qq </dev/null >"$TOOLS/apt-update.log" 2>&1 9>&- || say "apt-get update complained (see $TOOLS/apt-update.log)"
    LISTS_REFRESHED=1
}

# The archive that this machine takes Debian 12 from, out of its own apt configuration.
debian_archive() {
    # shellcheck disable=SC2016 # the dollars are apt's
    local format='$(ORIGIN)/$(LABEL)/$(CODENAME)/$(COMPONENT)/$(CREATED_BY) $(REPO_URI)'
    local found
    found=$(apt-get indextargets --format "$format" | awk '$1 == "Debian/Debian/bookworm/main/Packages" { print $2; exit }')
    if [ -z "$found" ]; then
        refresh_machine_lists
        found=$(apt-get indextargets --format "$format" | awk '$1 == "Debian/Debian/bookworm/main/Packages" { print $2; exit }')
    fi
    [ -n "$found" ] || die "apt on this machine has no source for Debian 12 (bookworm), main"
    printf '%s\n' "${found%/}"
}

DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# other_apt COMMAND SUITE ARGUMENT…: apt-get or apt-cache for another release of Debian, with a state of its own, so that the
# machine's apt never hears of it.
other_apt() {
    local command=$1 suite=$2 state=$TOOLS/apt/$2
    shift 2
    "$command" -qq \
        -o "Dir::State=$state/state" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state/cache" \
        -o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o APT::Update::Post-Invoke-Success= \
        "$@" </dev/null
}

# fetch_packages SUITE DIRECTORY PACKAGE…: downloads the .debs of one release of Debian into the directory.
fetch_packages() {
    local suite=$1 directory=$2 archive state=$TOOLS/apt/$1
    shift 2
    if [ ! -e "$state/fresh" ] || [ -n "$(find "$state/fresh" -mmin +60)" ]; then
        archive=$(debian_archive)
        say "reading the package list of Debian's $suite"
        mkdir -p "$state/state/lists/partial" "$state/cache/archives/partial"
        : >"$state/status"
        printf 'deb [signed-by=%s target=Packages] %s %s main\n' "$DEBIAN_KEYRING" "$archive" "$suite" >"$state/sources.list"
        other_apt apt-get "$suite" update >&2
        touch "$state/fresh"
    fi
    mkdir -p "$directory"
    say "downloading $* of Debian's $suite"
    (cd "$directory" && other_apt apt-get "$suite" download "$@" >&2)
}

# unpack_packages SUITE DIRECTORY PACKAGE…: downloads and unpacks without installing; leaves the list of versions in DIRECTORY/versions.
unpack_packages() {
    local suite=$1 directory=$2 scratch deb
    shift 2
    scratch=$(mktemp -d -p "$TOOLS")
    fetch_packages "$suite" "$scratch" "$@"
    mkdir -p "$directory"
    for deb in "$scratch"/*.deb; do
        dpkg-deb -x "$deb" "$directory"
        # shellcheck disable=SC2016 # the dollars are dpkg-deb's
        dpkg-deb -W --showformat '${Package} ${Version}\n' "$deb" >>"$directory/versions"
    done
    rm -rf "$scratch"
}

# ping_engine SOCKET: whether an engine answers there.
ping_engine() { curl -fsS -o /dev/null --max-time 2 --unix-socket "$1" http://engine/_ping; }
