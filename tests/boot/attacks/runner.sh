# Plays the attacks of one file: `runner.sh FILE`. An attack is a line `attack NAME`, then its lines up to an empty one.
# Each runs in a shell of its own, for at most ten seconds, and prints BROKEN where it got what it wanted.
for tool in pgrep ps flock prlimit choom chrt renice taskset setsid perl stat timeout; do
    command -v "$tool" >/dev/null || echo "@missing $tool"
done
file=/usr/local/lib/attacks/$1.sh
work=$(mktemp -d)
export daemon=$(pgrep -o -x musterd)
export net=$(pgrep -o -u musterd-net)
export part=$(pgrep -o -f 'musterd-session serve')
export pi=$(pgrep -o -u pi -f 'sleep 5001')
for needed in daemon part pi; do
    [ -n "${!needed}" ] || echo "@missing process: $needed"
done
# Connects to a Unix socket, sends a line if there is one, prints what comes back: `talk SOCKET [LINE]`.
cat >"$work/talk" <<'PERL'
#!/usr/bin/perl
use IO::Socket::UNIX;
my $socket = IO::Socket::UNIX->new(Peer => $ARGV[0]) or exit 1;
print "connected\n";
if (defined $ARGV[1]) { print $socket "$ARGV[1]\n"; $socket->shutdown(1); alarm 5; while (my $line = <$socket>) { print $line } }
PERL
chmod 755 "$work/talk"
export PATH=$work:$PATH
play() {
    local said
    said=$(timeout 10 bash "$work/attack" 2>&1 </dev/null)
    case $said in
        *BROKEN*) echo "@broken $1: $(echo "$said" | tr '\n' ' ' | cut -c 1-300)" ;;
        *) echo "@held $1" ;;
    esac
}
name=
: >"$work/attack"
while IFS= read -r line || [ -n "$line" ]; do
    case $line in
        'attack '*) name=${line#attack }; : >"$work/attack" ;;
        '') if [ -n "$name" ]; then play "$name"; name=; fi ;;
        '#'*) ;;
        *) [ -z "$name" ] || printf '%s\n' "$line" >>"$work/attack" ;;
    esac
done <"$file"
[ -z "$name" ] || play "$name"
cd / && rm -rf "$work"
