# Somebody who has taken over the network side of a session: its user. No file, socket or process of anybody is theirs.

attack read the device's key
cat /var/lib/musterd/key.pem && echo BROKEN

attack change or lock the state
chmod 755 /var/lib/musterd && echo BROKEN
flock -n /var/lib/musterd true && echo BROKEN

attack start a session
talk /run/musterd-session/start.sock && echo BROKEN

attack talk to a living session
find /run/musterd-session -name '*.sock' | grep . && echo BROKEN
grep -o '/run/musterd-session/live/.*' /proc/net/unix | while read -r socket; do talk "$socket" && echo BROKEN; done

attack talk to the daemon
for socket in $(ls /run/musterd/*.sock | grep -v metrics); do talk $socket && echo BROKEN; done

attack trace the privileged part
perl -e 'exit(syscall(101, 16, $ENV{part}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN

attack trace another session's network side
for pid in $(pgrep -u musterd-net -f musterd-session); do TRACED=$pid perl -e 'exit(syscall(101, 16, $ENV{TRACED}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN; done

attack read another session's network side
for pid in $(pgrep -u musterd-net -f musterd-session); do cat /proc/$pid/environ | grep -a . && echo BROKEN; head -c 1 /proc/$pid/mem && echo BROKEN; ls -l /proc/$pid/fd | grep . && echo BROKEN; done

attack trace a visitor's process
perl -e 'exit(syscall(101, 16, $ENV{pi}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN

attack kill a visitor, the daemon or a privileged part
for pid in $pi $daemon $part; do kill -KILL $pid && echo BROKEN; done

attack read a visitor's terminal and home
for tty in /dev/pts/[0-9]*; do (exec 3<$tty) && echo BROKEN; done
cat /home/pi/.bash_history && echo BROKEN
touch /home/pi/x && echo BROKEN

attack rewrite policy or anchor
echo > /etc/musterd/policy.toml && echo BROKEN
echo > /etc/musterd/hub.json && echo BROKEN

attack read used orders
ls /var/lib/musterd-session && echo BROKEN
