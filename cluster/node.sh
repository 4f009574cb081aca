#!/usr/bin/env bash
# Makes this host a node: settings, Python environment, and on the head the code and the secrets that all share.
#   node.sh SHARED         a node that joins, or comes back with an empty disk: all it needs lies in the shared folder
#   node.sh SHARED head    the head: publishes the checkout this script lies in, and makes what is missing
# Safe to run again, and quick when nothing changed.
set -euo pipefail
umask 077
shared=$1 code=$(readlink -f "$(dirname "$0")/..")

# What keeps this host away lies where a study looks for it, not only in Ray's log on the head.
note=$shared/nodes/$(hostname) said=$(mktemp)
told() {
  cat "$said" >&3
  if [ "$1" = 0 ]; then rm -f "$note"; else mkdir -p "$shared/nodes" && tail -n 3 "$said" >"$note"; fi
  rm -f "$said"
}
exec 3>&2 2>"$said"
trap 'told $?' EXIT

if [ "${2:-}" = head ]; then
  mkdir -p "$shared/secrets" "$shared/mlflow" "$shared/code"
  rsync -a --delete "$code/" "$shared/code/"
  # The address this host has for those who reach it: given, else the one that ssh came in by.
  echo "${LARESA_HEAD:-$(echo "${SSH_CONNECTION:-}" | cut -d' ' -f3)}" >"$shared/head"
  secret() { [ -s "$1" ] || python3 -c 'import secrets; print(secrets.token_hex(32), end="")' >"$1"; }
  secret "$shared/secrets/ray_token"
  secret "$shared/mlflow/admin_password"
fi

# A Slurm job reads the settings itself: the home folder's shells are nobody's node.
line=". $shared/code/cluster/env.sh"
[ -n "${SLURM_JOB_ID:-}" ] || grep -qxF "$line" ~/.bashrc 2>/dev/null || echo "$line" >>~/.bashrc
# shellcheck source=cluster/env.sh
. "$shared/code/cluster/env.sh"

# An environment that site.sh names is somebody else's to keep; ours follows the lock file.
if [ "$LARESA_VENV" = "$HOME/.laresa-venv" ] && ! cmp -s "$shared/code/requirements.lock" "$LARESA_VENV/installed.lock"; then
  "${LARESA_PYTHON:-python3}" -m venv "$LARESA_VENV"
  "$LARESA_VENV/bin/pip" install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$shared/code/requirements.lock"
  cp -r "$shared/code" "$LARESA_VENV/source"  # a build writes beside what it builds, and other nodes build, too
  "$LARESA_VENV/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation "$LARESA_VENV/source"
  rm -r "$LARESA_VENV/source"
  cp "$shared/code/requirements.lock" "$LARESA_VENV/installed.lock"
fi

# Ray lets no node join whose versions differ, and says so to nobody who would look.
have=$("$LARESA_VENV/bin/python" -c 'import platform; from importlib.metadata import version as v; print("Ray", v("ray"), "on Python", platform.python_version())')
[ "${2:-}" != head ] || echo "$have" >"$shared/versions"
if [ "$have" != "$(cat "$shared/versions")" ]; then
  echo "$(hostname) has $have, the head has $(cat "$shared/versions"): one image, or LARESA_VENV, for all (cluster/README.md)" >&2
  exit 1
fi
