# A visitor with a user of their own and no rights. $daemon, $net, $part and $pi are process ids; see runner.sh.

attack read the device's key
cat /var/lib/musterd/key.pem && echo BROKEN

attack make the device's key readable for all
chmod 755 /var/lib/musterd && echo BROKEN
chmod 644 /var/lib/musterd/key.pem && echo BROKEN

attack make the device's key unreadable for the daemon
chmod 000 /var/lib/musterd/key.pem && echo BROKEN

attack read the key through the daemon's root
cat /proc/$daemon/root/var/lib/musterd/key.pem && echo BROKEN

attack read the key through the daemon's descriptors
ls /proc/$daemon/fd && echo BROKEN

attack read the daemon's memory
head -c 1 /proc/$daemon/mem && echo BROKEN
cat /proc/$daemon/maps | grep . && echo BROKEN

attack read the daemon's environment
cat /proc/$daemon/environ | grep -a . && echo BROKEN

attack trace the daemon
perl -e 'exit(syscall(101, 16, $ENV{daemon}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN

attack copy memory out of the daemon
perl -e 'my $b = "\0" x 8; my $l = pack("pQ", $b, 8); my $r = pack("QQ", 0x400000, 8); exit(syscall(310, $ENV{daemon}, $l, 1, $r, 1, 0) > 0 ? 0 : 1)' && echo BROKEN

attack take a descriptor of the daemon's by pidfd
perl -e 'my $p = syscall(434, $ENV{daemon}, 0); exit(syscall(438, $p, 3, 0) >= 0 ? 0 : 1)' && echo BROKEN

attack lock the state directory
flock -n /var/lib/musterd true && echo BROKEN

attack lock a file of the state
flock -n /var/lib/musterd/key.pem true && echo BROKEN

attack put something into the state directory
touch /var/lib/musterd/x && echo BROKEN

attack move the state away
mv /var/lib/musterd /var/lib/musterd.away && echo BROKEN

attack lower the daemon's limits
prlimit --pid $daemon --nofile=8:8 && echo BROKEN

attack lower the privileged part's limits
prlimit --pid $part --nofile=4:4 && echo BROKEN

attack have the kernel take the daemon first
choom -n 1000 -p $daemon && echo BROKEN
echo 1000 > /proc/$daemon/oom_score_adj && echo BROKEN

attack have the kernel take oneself last
choom -n -900 -p $$ && echo BROKEN
echo 0 > /proc/self/oom_score_adj && echo BROKEN

attack stop the daemon by a signal
kill -STOP $daemon && echo BROKEN

attack kill the daemon
kill -KILL $daemon && echo BROKEN

attack kill the privileged part of any session
for pid in $(pgrep -f 'musterd-session serve'); do kill -STOP $pid && echo BROKEN; kill -KILL $pid && echo BROKEN; done

attack kill the network side of any session
for pid in $(pgrep -u musterd-net); do kill -STOP $pid && echo BROKEN; kill -KILL $pid && echo BROKEN; done

attack queue a signal to the daemon by pidfd
perl -e 'my $p = syscall(434, $ENV{daemon}, 0); exit(syscall(424, $p, 19, 0, 0) == 0 ? 0 : 1)' && echo BROKEN

attack make the daemon nice
renice -n 19 -p $daemon && echo BROKEN

attack tie the daemon to one core
taskset -pc 0 $daemon && echo BROKEN

attack take real-time priority
chrt -f 50 true && echo BROKEN

attack ask the privileged part for a session
talk /run/musterd-session/start.sock && echo BROKEN

attack list the sessions of others
ls /run/musterd-session && echo BROKEN
ls /run/musterd-session/live && echo BROKEN

attack talk to a living session
for socket in $(find /run/musterd-session -name '*.sock'); do talk $socket && echo BROKEN; done
grep -o '/run/musterd-session/live/.*' /proc/net/unix | while read -r socket; do talk "$socket" && echo BROKEN; done

attack forge events through the control socket
for socket in $(ls /run/musterd/*.sock | grep -v metrics); do talk $socket '{"do":"event","event":{"kind":"clone"}}' && echo BROKEN; done
for socket in $(ls /run/musterd/*.sock | grep -v metrics); do talk $socket '{"do":"status"}' && echo BROKEN; done

attack put a socket into the daemon's runtime directory
touch /run/musterd/x && echo BROKEN
mv /run/musterd/metrics.sock /run/musterd/y && echo BROKEN

attack read another visitor's terminal
for tty in /dev/pts/[0-9]*; do [ "$(stat -c %U $tty)" = eve ] || { (exec 3<$tty) && echo BROKEN $tty; }; done
for fd in 0 1 2; do (exec 3</proc/$pi/fd/$fd) && echo BROKEN $fd; done

attack write on another visitor's screen
for tty in /dev/pts/[0-9]*; do [ "$(stat -c %U $tty)" = eve ] || { (exec 3>$tty) && echo BROKEN $tty; }; done
for fd in 0 1 2; do (exec 3>/proc/$pi/fd/$fd) && echo BROKEN $fd; done

attack push keys into another visitor's terminal
perl -e 'for my $tty (glob("/dev/pts/[0-9]*")) { next if (stat $tty)[4] == $<; open(my $t, "+<", $tty) or next; print "BROKEN\n" }'

attack plant a profile for the next visitor
echo x >> /home/pi/.profile && echo BROKEN
echo x >> /home/pi/.bashrc && echo BROKEN
echo x > /home/pi/.bash_login && echo BROKEN
echo x > /etc/profile.d/x.sh && echo BROKEN

attack read another visitor's environment and files
cat /proc/$pi/environ | grep -a . && echo BROKEN
ls /proc/$pi/fd && echo BROKEN
ls /proc/$pi/cwd/ && echo BROKEN

attack kill another visitor's process
kill -KILL $pi && echo BROKEN

attack trace another visitor's process
perl -e 'exit(syscall(101, 16, $ENV{pi}, 0, 0) == 0 ? 0 : 1)' && echo BROKEN

attack rewrite the policy
echo '[users]' > /etc/musterd/policy.toml && echo BROKEN
chmod 666 /etc/musterd/policy.toml && echo BROKEN

attack put another policy in its place
cp /etc/musterd/policy.toml /tmp/p.$$ && mv -f /tmp/p.$$ /etc/musterd/policy.toml && echo BROKEN
rm -f /tmp/p.$$
mv /etc/musterd /etc/musterd.away && echo BROKEN

attack move the anchor to another hub
echo '{}' > /etc/musterd/hub.json && echo BROKEN
[ -e /etc/musterd/hub.json ] && rm -f /etc/musterd/hub.json && [ ! -e /etc/musterd/hub.json ] && echo BROKEN

attack lock the device
touch /etc/musterd/locked && echo BROKEN
musterd lock && echo BROKEN

attack end everybody's sessions on the device
musterd end --all | grep 'told to end' && echo BROKEN
musterd sessions | grep -E ' (pi|owner@)' && echo BROKEN
sleep 1; [ -d /proc/$pi ] || echo BROKEN

attack approve what asks for approval
musterd approve ABCD-2345 && echo BROKEN

attack read or remove used orders
ls /var/lib/musterd-session && echo BROKEN
rm -rf /var/lib/musterd-session/used && [ ! -e /var/lib/musterd-session ] && echo BROKEN

attack become root by sudo or su
sudo -n id && echo BROKEN
su -c id </dev/null && echo BROKEN

attack start a session program as oneself with a forged order
echo '{"order":"{}","signature":"x"}' | musterd-session serve | grep -i -w -E 'ok|started|opened' && echo BROKEN
musterd-session listen </dev/null & sleep 1; kill $! && [ -S /run/musterd-session/start.sock ] && [ "$(stat -c %U /run/musterd-session/start.sock)" != root ] && echo BROKEN

attack stop the units
systemctl --no-ask-password stop musterd && echo BROKEN
systemctl --no-ask-password stop musterd-session.socket && echo BROKEN
systemctl --no-ask-password kill musterd && echo BROKEN

attack change a unit
systemctl --no-ask-password set-property musterd MemoryMax=1M && echo BROKEN
echo x > /etc/systemd/system/musterd.service && echo BROKEN

attack leave the session's control group
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
for up in /sys/fs/cgroup /sys/fs/cgroup/system.slice /sys/fs/cgroup/system.slice/musterd.service $(dirname $group) $(dirname $group)/muster; do echo $$ > $up/cgroup.procs && echo BROKEN $up; done

attack raise the session's limits
group=/sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)
for file in pids.max memory.max memory.high cpu.weight; do echo max > $group/$file && echo BROKEN; echo 10000 > $(dirname $group)/$file && echo BROKEN; done

attack make a control group of one's own
mkdir /sys/fs/cgroup$(sed -n 's/^0:://p' /proc/self/cgroup)/x && echo BROKEN
mkdir /sys/fs/cgroup/x && echo BROKEN

attack freeze the daemon or a session
for group in /sys/fs/cgroup/system.slice/musterd.service $(find /sys/fs/cgroup -type d -name 'musterd-session@*'); do echo 1 > $group/cgroup.freeze && echo BROKEN; echo 1 > $group/cgroup.kill && echo BROKEN; done

attack find a ticket, token or key in one's environment
env | grep -i -E 'ticket|token|secret|BEGIN|NOTIFY_SOCKET|LISTEN_FDS|INVOCATION' && echo BROKEN
tr '\0' '\n' < /proc/$PPID/environ | grep -i -E 'ticket|token|BEGIN' && echo BROKEN

attack find a descriptor that was left open
ls -l /proc/$$/fd | grep -E 'musterd|socket:' && echo BROKEN
for pid in $(pgrep -u eve); do ls -l /proc/$pid/fd | grep -E '/(musterd|musterd-session)/' && echo BROKEN; done

attack read what the session's own programs were told
for pid in $(pgrep -f musterd-session); do [ "$(stat -c %U /proc/$pid)" = eve ] || { cat /proc/$pid/environ | grep -a . && echo BROKEN; }; done
for pid in $(pgrep -f musterd-session); do tr '\0' ' ' < /proc/$pid/cmdline | grep -E 'ticket|BEGIN|wss:' && echo BROKEN; done

attack leave a link where root or the daemon writes
for place in /run /run/musterd /run/musterd-session /var/lib /etc/musterd; do ln -s /etc/shadow $place/link && echo BROKEN $place; done

attack fill the daemon's open files by its sockets
perl -MIO::Socket::UNIX -e 'my @all; for (1..2000) { my $s = IO::Socket::UNIX->new(Peer => "/run/musterd/metrics.sock") or last; push @all, $s } sleep 1'
[ "$(cat /proc/$daemon/comm)" = musterd ] || echo BROKEN

attack enter the daemon's or another visitor's namespaces
for pid in $daemon $part $pi; do nsenter -t $pid -m -p true && echo BROKEN; done

attack get more rights in a user namespace of one's own
unshare -Ur cat /var/lib/musterd/key.pem && echo BROKEN
unshare -Urm sh -c 'mount --bind /tmp /etc/musterd && echo x > /etc/musterd/x' && [ -e /etc/musterd/x ] && echo BROKEN
unshare -Ur sh -c 'kill -KILL $daemon' && echo BROKEN

attack leave the control group through a namespace of one's own
group=$(sed -n 's/^0:://p' /proc/self/cgroup)
unshare -UrmC sh -c 'mkdir -p /tmp/cg && mount -t cgroup2 none /tmp/cg && echo max > /tmp/cg/pids.max' && echo BROKEN
unshare -UrmC sh -c 'mount -t cgroup2 none /tmp/cg && mkdir /tmp/cg/x && echo 0 > /tmp/cg/x/cgroup.procs' && echo BROKEN
[ "$group" = "$(sed -n 's/^0:://p' /proc/self/cgroup)" ] || echo BROKEN

attack have systemd start something as root
systemd-run --no-ask-password --quiet true && echo BROKEN
busctl --no-pager call org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager StopUnit ss musterd.service replace && echo BROKEN

attack have the kernel start something as root
for file in /proc/sys/kernel/core_pattern /proc/sys/kernel/modprobe /sys/kernel/uevent_helper /proc/sysrq-trigger; do echo x > $file && echo BROKEN; done

attack read the disk, the memory or the kernel's keys
for file in /dev/vda /dev/mem /dev/kmsg /dev/port /proc/kcore; do head -c 1 $file && echo BROKEN; done

attack plant something that systemd or cron starts later
for place in /etc/systemd/system /run/systemd/system /etc/cron.d /etc/init.d /usr/local/bin; do touch $place/x && echo BROKEN; done
for file in /etc/ld.so.preload /etc/environment /etc/passwd /etc/sudoers; do echo x >> $file && echo BROKEN; done
