#!/bin/sh
# ELEPHANT_ALARM of the workflow: one GitHub issue a profile, opened by a bad night and closed by a
# good one. Needs `gh`; GH_TOKEN and GH_REPO come from the workflow. The text is on standard input.
set -eu
title="Nightly $ELEPHANT_ALARM_PROFILE is not good"
text=$(cat)
number=$(gh issue list --state open --search "in:title \"$title\"" --json number --jq '.[0].number // ""')
case "$ELEPHANT_ALARM_STATE" in
  open)
    if [ -n "$number" ]; then gh issue comment "$number" --body "$text"
    else gh issue create --title "$title" --body "$text"
    fi ;;
  closed) [ -z "$number" ] || gh issue close "$number" --comment "$text" ;;
  test) echo "$text"; gh auth status ;;
  *) echo "unknown state $ELEPHANT_ALARM_STATE" >&2; exit 2 ;;
esac
