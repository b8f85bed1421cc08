# Sourced by the scripts beside it: their options, messages, --dry-run, and required settings.
DRY_RUN="${DRY_RUN:-0}"

# stop CODE WORDS...: ends the script with a sentence.
stop() { echo "$(basename "$0"): ${*:2}" >&2; exit "$1"; }
die() { stop 2 "$@"; }

# quoted below needs 4.4. What stands above is read by the 3.2 of macOS too.
if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  die "this is bash $BASH_VERSION, and 4.4 or newer is needed (on macOS: brew install bash)."
fi

# The help of a script is the comment at its top.
usage() { sed -n '2,/^[^#]/{/^#/!q;s/^# \{0,1\}//;p;}' "$0"; }

# need NAME VALUE HOW: a setting that has no default.
need() { [[ -n "$2" ]] || die "$1 is not set: give $3."; }

# options "NAME=DEFAULT NAME ... [--]" "$@": reads the arguments. NAME= takes a value, which goes into
# the variable of that name (--cpu-devices into cpu_devices), NAME alone puts a 1 there. --help and
# --dry-run are known to all. What follows --, where the script takes it, goes into PROGRAM.
_set() { printf -v "${1//-/_}" %s "$2"; }
options() {
  local known=" " each after=""
  for each in $1; do
    case "$each" in
      --) after="; the program's own come after --" ;;
      *=*) known+="${each%%=*}= "; _set "${each%%=*}" "${each#*=}" ;;
      *) known+="$each "; _set "$each" "" ;;
    esac
  done
  shift
  while [[ $# -gt 0 ]]; do
    each="${1#--}"
    case "$1" in
      --help|-h) usage; exit 0 ;;
      --dry-run) DRY_RUN=1; shift ;;
      --) [[ -n "$after" ]] || die "unknown option --."; shift; break ;;
      *)
        [[ "$1" =~ ^--[a-z-]+$ ]] || die "unknown option $1$after."
        if [[ "$known" == *" $each= "* ]]; then
          [[ $# -ge 2 ]] || die "$1 needs a value."
          _set "$each" "$2"; shift 2
        elif [[ "$known" == *" $each "* ]]; then
          _set "$each" 1; shift
        else
          die "unknown option $1$after."
        fi ;;
    esac
  done
  PROGRAM=("$@")
}

# program EXAMPLE: what is to be run must have been given.
program() { [[ "${#PROGRAM[@]}" -gt 0 ]] || die "nothing to run: give -- $1."; }

# tpu: which TPU and where, from the options or the environment, as gcloud's flags in WHERE.
tpu() {
  project="${project:-${TPU_PROJECT:-}}" zone="${zone:-${TPU_ZONE:-}}"
  need "The name" "$name" "--name NAME"
  need "The project" "$project" "--project PROJECT or TPU_PROJECT"
  need "The zone" "$zone" "--zone ZONE or TPU_ZONE"
  WHERE=(--project="$project" --zone="$zone")
}

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
