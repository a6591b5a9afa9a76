# Sourced by scripts/demo and scripts/test: finds Python, installs what Debian lacks (as root) or names it, and makes
# the virtual environment .venv in the checkout. Sets $python (of the environment), $root (of the checkout) and $caller
# (where the script was called), and goes to $root.
#
# The caller may stand in a folder of somebody else's, and that folder's code must not run: no Python here is started
# in it, each ignores the working directory and PYTHON… variables (-I), and those variables do not reach its children.

unset CDPATH
caller=$PWD
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# absolute PATH: as the caller means it.
absolute() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s/%s' "$caller" "$1" ;; esac; }

venv=$(absolute "${CHORUS_VENV:-$root/.venv}")
case ${PYTHON:-} in */*) PYTHON=$(absolute "$PYTHON") ;; esac
for variable in "${!PYTHON@}"; do
    [ "$variable" = PYTHON ] || unset "$variable"
done
# A relative folder of the PATH would be one of $root, which was not meant either.
PATH=$(printf '%s' "$PATH" | tr ':' '\n' | grep '^/' | paste -sd:)
cd "$root"

say() { printf '%s\n' "chorus: $*" >&2; }
die() { say "$*"; exit 1; }

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 || continue
        if "$candidate" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s' "$candidate"
            return 0
        fi
    done
    return 1
}

has_venv() { "$1" -I -c 'import ensurepip, venv' 2>/dev/null; }

# install_packages NAME…: with apt as root, and says so; otherwise one line names them.
install_packages() {
    local log
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing Debian packages: $*"
        log=$(mktemp -t chorus-apt-XXXXXXXXXX)
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@"; } \
            >/dev/null 2>"$log" || die "apt-get could not install: $* (see $log)"
        rm -f "$log"
    else
        die "these packages are missing, ask root to run: apt-get install $*"
    fi
}

# prepare EXTRAS PACKAGE…: what the machine needs, then the environment with chorus[EXTRAS].
prepare() {
    local extras=$1 base missing=() stamp
    shift
    base=$(find_python) || base=
    if [ -z "$base" ]; then
        missing+=(python3 python3-venv)
    elif ! has_venv "$base"; then
        missing+=(python3-venv)
    fi
    while [ $# -gt 0 ]; do # pairs: command package
        command -v "$1" >/dev/null 2>&1 || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} = 0 ] || install_packages "${missing[@]}"
    base=$(find_python) || die "Python 3.11 or newer is needed (PYTHON=… names one)"
    has_venv "$base" || die "$base cannot make virtual environments: install its venv package"

    python=$venv/bin/python
    if ! "$python" -I -c 'import pip' 2>/dev/null; then
        say "making a virtual environment in $venv"
        "$base" -I -m venv --clear "$venv" || die "could not make the virtual environment $venv"
    fi
    # A development install: the sources are used in place, so only new requirements need another install.
    stamp="$extras $(cat "$root/setup.cfg" "$root/pyproject.toml" | sha256sum | cut -c1-64)"
    if [ "$(cat "$venv/.chorus-stamp" 2>/dev/null)" != "$stamp" ]; then
        say "installing chorus[$extras] and what it needs (once; a minute or two)"
        "$python" -I -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat \
            --editable "$root[$extras]" >"$venv/install.log" 2>&1 ||
            die "the installation failed (see $venv/install.log): $(grep -v '^WARNING' "$venv/install.log" | tail -1)"
        printf '%s' "$stamp" >"$venv/.chorus-stamp"
    fi
    PATH=$venv/bin:$PATH
}
