# Somebody who has taken over the daemon. They have its key and may connect to where sessions start, and nothing more.

attack have an order without the hub's signature carried out
said=$(talk /run/musterd-session/start.sock '{"order":"{\"session\":\"sabcdefghijklmno\"}","signature":"AAAA","chain":[]}')
echo "$said" | grep -i -E '"(ok|started|opened)"' && echo BROKEN

attack feed the privileged part with noise
for i in 1 2 3; do said=$(talk /run/musterd-session/start.sock "$(head -c 3000 /dev/urandom | base64 -w 0)"); echo "$said" | grep -i -E '"(ok|started|opened)"' && echo BROKEN; done

attack rewrite the policy
echo '[users]' > /etc/musterd/policy.toml && echo BROKEN
mv /etc/musterd/policy.toml /etc/musterd/away && echo BROKEN

attack move the anchor to another hub
echo '{}' > /etc/musterd/hub.json && echo BROKEN

attack unlock or lock the device
touch /etc/musterd/locked && echo BROKEN

attack forget used orders
ls /var/lib/musterd-session && echo BROKEN
rm -rf /var/lib/musterd-session/used && [ ! -e /var/lib/musterd-session ] && echo BROKEN

attack put a socket where sessions start
mv /run/musterd-session/start.sock /run/musterd-session/away && echo BROKEN
touch /run/musterd-session/x && echo BROKEN

attack read a visitor's terminal
for tty in /dev/pts/[0-9]*; do (exec 3<$tty) && echo BROKEN; done
for fd in 0 1 2; do (exec 3</proc/$pi/fd/$fd) && echo BROKEN; done

attack read or write a visitor's home
touch /home/pi/x && echo BROKEN
ls /proc/$pi/cwd/ && echo BROKEN

attack trace or kill a visitor's process
perl -e 'exit(syscall(101, 16, $ENV{pi}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN
kill -KILL $pi && echo BROKEN

attack trace or kill the privileged part
perl -e 'exit(syscall(101, 16, $ENV{part}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN
kill -KILL $part && echo BROKEN

attack kill or trace the network side
for pid in $(pgrep -u musterd-net); do kill -KILL $pid && echo BROKEN; TRACED=$pid perl -e 'exit(syscall(101, 16, $ENV{TRACED}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN; done

attack become root
sudo -n id && echo BROKEN
