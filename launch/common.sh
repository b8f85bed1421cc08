# Sourced by the scripts beside it: messages, --dry-run, and required settings.
DRY_RUN="${DRY_RUN:-0}"

die() { echo "$(basename "$0"): $*" >&2; exit 2; }

# The help of a script is the comment at its top.
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p;}' "$0"; }

# need NAME VALUE HOW: a setting that has no default.
need() { [[ -n "$2" ]] || die "$1 is not set: give $3."; }

# option NAME "$@": the value of an option, which must be there.
option() { [[ $# -ge 3 ]] || die "$1 needs a value."; printf '%s' "$3"; }

# quoted WORD...: the words so that a shell reads them back, in quotes only where they need them.
quoted() {
  local word line=""
  for word in "$@"; do
    [[ "$word" =~ ^[A-Za-z0-9_./:=,@%+~-]+$ ]] || word="${word@Q}"
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

# run CMD...: runs it, or prints it.
run() {
  if [[ "$DRY_RUN" == 1 ]]; then quoted "$@"; echo; else "$@"; fi
}
