#!/bin/sh
# One night for a timer: `elephant nightly` with the arguments given, from the checkout this lies in.
# What no night can tell of itself is told here: that the package does not start at all (a broken
# environment, an error in its code). The exit status is the night's.
set -u
cd "$(dirname "$0")/.." || exit 1
elephant=.venv/bin/elephant
if ! problem=$("$elephant" nightly --help 2>&1 >/dev/null); then
  text=$(printf 'The nightly run does not start:\n%s\n' "$problem" | tail -n 20)
  echo "$text" >&2
  if [ -n "${ELEPHANT_ALARM:-}" ]; then
    printf '%s\n' "$text" |
      ELEPHANT_ALARM_STATE=open ELEPHANT_ALARM_PROFILE="${PROFILE:-nightly}" sh -c "$ELEPHANT_ALARM"
  fi
  exit 1
fi
exec "$elephant" nightly "$@"
