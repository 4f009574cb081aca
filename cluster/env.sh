# The settings of a node: every shell on it reads this file (from ~/.bashrc), so Ray, the trials and you have the same.
# It lies in the shared folder's copy of the code, and LARESA_HOME is that shared folder.
# shellcheck shell=bash
LARESA_HOME=$(dirname "$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")")
LARESA_VENV=$HOME/.laresa-venv

# Yours, never overwritten: proxies, package registries, LARESA_VENV or LARESA_PYTHON, another tracking server.
# shellcheck source=/dev/null
if [ -f "$LARESA_HOME/site.sh" ]; then . "$LARESA_HOME/site.sh"; fi

# Whoever reaches a Ray without a token can run code on it: say "token" everywhere, since Ray's default depends on
# whether a token file happens to lie in the home folder.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$LARESA_HOME/secrets/ray_token
export RAY_USAGE_STATS_ENABLED=0

# The head's server, unless site.sh named another; its password never leaves the shared folder.
if [ -z "${MLFLOW_TRACKING_URI:-}" ]; then
  MLFLOW_TRACKING_URI=http://$(cat "$LARESA_HOME/head"):5000
  MLFLOW_TRACKING_USERNAME="admin"
  MLFLOW_TRACKING_PASSWORD=$(cat "$LARESA_HOME/mlflow/admin_password" 2>/dev/null || true)
fi
export MLFLOW_TRACKING_URI MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD

export LARESA_HOME LARESA_VENV PYTHONPATH=$LARESA_HOME/code
case :$PATH: in *":$LARESA_VENV/bin:"*) ;; *) export PATH=$LARESA_VENV/bin:$PATH ;; esac
