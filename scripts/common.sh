# Shared by the scripts: a virtual environment with the package in it, and the system libraries that Qt needs.
# Sourced with the working directory at the root of the checkout.

VENV="${RELION_PY_VENV:-$PWD/.venv}"

say() { printf '%s\n' "$*" >&2; }

die() { say "$*"; exit 1; }

# Run as root: directly, or with a sudo that asks nothing.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then sudo -n "$@"
  else return 1
  fi
}

# install_debian PACKAGES: quietly; false if it cannot be done. What apt said is in the file $apt_log.
install_debian() {
  apt_log=$(mktemp)
  { as_root apt-get update -qq &&
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } \
    >"$apt_log" 2>&1 </dev/null
}

# What Qt's window needs on a bare Debian or Ubuntu, when something is missing.
QT_PACKAGES="libegl1 libgl1 libdbus-1-3 libfontconfig1 libglib2.0-0 libxkbcommon0 libxkbcommon-x11-0 libxcb-cursor0
  libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 libxcb-render-util0 libxcb-shape0 libxcb-xinerama0
  libxcb-xkb1 fonts-dejavu-core"

# Install Debian packages, or name the one command that does (with all that may be missing, so that it stays one).
need_debian() {
  command -v apt-get >/dev/null || die "Please install with your system's package manager: $*"
  say "Installing system packages: $*"
  install_debian "$@" && return
  grep '^E:' "$apt_log" >&2 || true
  set -- $(printf '%s\n' "$@" $QT_PACKAGES | sort -u)
  die "They could not be installed from here. Run this once, then start again:
  sudo apt-get update && sudo apt-get install -y $*"
}

find_python() {
  local candidate
  for candidate in ${PYTHON:+"$PYTHON"} python3.13 python3.12 python3.11 python3; do
    command -v "$candidate" >/dev/null || continue
    "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { printf '%s' "$candidate"; return; }
  done
  die "Python 3.11 or newer is needed; none was found on the PATH (PYTHON=/path/to/python3 names one)."
}

# make_venv EXTRAS: the environment with the package and its extras; quick when nothing has changed.
make_venv() {
  local python stamp mark
  if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
      need_debian "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    fi
    say "Making the virtual environment $VENV ..."
    "$python" -m venv --clear "$VENV" || die "The virtual environment $VENV could not be made."
  fi
  # the directory too: an environment that was moved with its checkout points to the old place
  stamp="$1 $PWD $(cksum <pyproject.toml)"
  mark="$VENV/.relion_py_${1//,/_}"
  if [ "$(cat "$mark" 2>/dev/null)" != "$stamp" ]; then
    say "Installing relion_py and what it needs (some minutes the first time) ..."
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --root-user-action=ignore \
      --editable ".[$1]" || die "The installation failed; the lines above say why."
    printf '%s' "$stamp" >"$mark"
  fi
  PATH="$VENV/bin:$PATH"
  export PATH
}

# need_qt offscreen|xcb: the libraries that Qt's platform plugin misses are installed.
need_qt() {
  qt_loads "$1" && return
  need_debian $QT_PACKAGES
  qt_loads "$1" loudly || die "Qt still misses a library of the system; the line above names it."
}

# qt_loads offscreen|xcb [loudly]: whether Qt and its platform plugin find all their libraries.
qt_loads() {
  "$VENV/bin/python" - "$@" <<'PY'
import ctypes, pathlib, sys
import PySide6
plugins = pathlib.Path(PySide6.__file__).parent / "Qt/plugins/platforms"
try:
    import PySide6.QtWidgets
    ctypes.CDLL(str(plugins / f"libq{sys.argv[1]}.so"))
except (ImportError, OSError) as error:
    sys.exit(str(error) if sys.argv[2:] else 1)
PY
}
