//! The packaged units under a real systemd, which boots in namespaces of its own with a private `/etc`, `/run` and `/tmp`.

use crate::lab::ripstop;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The longest that the booted machine may take for all that it is told, in seconds.
const SECONDS: &str = "90";

/// Makes a machine of the one that it runs on and boots it; `$1` is a directory that both see, as `/lab` there.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
root=$1/root; mkdir -p $root $1/over
mount -t tmpfs tmpfs $1/over; mkdir $1/over/upper $1/over/work
mount -t overlay overlay -o lowerdir=/,upperdir=$1/over/upper,workdir=$1/over/work $root
mount -t proc proc $root/proc; mount -t sysfs sysfs $root/sys; mount -t cgroup2 none $root/sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs $root/run; mount -t tmpfs tmpfs $root/tmp; mount -t tmpfs -o mode=755 tmpfs $root/dev
mkdir -p $root/dev/net $root/dev/shm $root/dev/pts $root/lab
for device in null zero full random urandom tty net/tun; do
  touch $root/dev/$device; mount --bind /dev/$device $root/dev/$device
done
mount --bind $1 $root/lab
touch $root/usr/local/bin/ripstop; mount --bind $2 $root/usr/local/bin/ripstop
rm -rf $root/etc/systemd/system $root/etc/netns $root/etc/ripstop; mkdir -p $root/etc/systemd/system
rm -f $root/etc/resolv.conf; echo 'nameserver 192.0.2.53' > $root/etc/resolv.conf
cat > $root/etc/systemd/system/told.service <<'END'
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/bash -ex /lab/told.sh
StandardOutput=append:/lab/said
StandardError=inherit
ExecStopPost=/bin/systemctl exit --force
END
# As on a machine that systemd has booted itself: mounts that come later reach the services.
mount --make-rshared $root
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin container=lab chroot $root /lib/systemd/systemd --system --unit=told.service
"#;

/// What is done there. A line that fails ends it, and what it has said is shown.
const TOLD: &str = r#"
ip link set lo up; ip link add eth9 type veth peer name eth8; ip address add 192.0.2.11/24 dev eth9; ip link set eth9 up
fails() { if "$@"; then false; fi; }
until_ok() { for _ in $(seq 100); do "$@" && return; sleep 0.1; done; false; }
attached() { ip -n $1 -br link | grep -q rs-; }
rights() { echo "RIGHTS $1 $(sed -n 's/^CapEff:\t//p; s/^CapBnd:\t//p; s/^NoNewPrivs:\t//p; s/^Seccomp:\t//p' /proc/$2/status | tr '\n' ' ')"; }
none() { ! pgrep -x ripstop; }
agent() { systemctl show -P MainPID ripstop.service; }

ripstop init --fabric lab.test --host alpha --address 192.0.2.11
for name in web api; do ip netns add $name; ip -n $name link set lo up; done
ripstop workload add web --on alpha --run netns:web
ripstop expose api --port 8080 --on alpha --run netns:api --allow web
ip netns exec api setpriv --pdeathsig KILL python3 -m http.server 8080 --directory /etc/systemd >/dev/null 2>&1 &
call() { ripstop exec web curl -sS -m 5 -o /dev/null http://api.main.lab.test:8080/; }
until_ok call
grep -q 198.18.0.1 /etc/netns/web/resolv.conf
rights agent $(agent)
rights door $(pgrep -f 'ripstop door')

# A process with a namespace without a name, whose rights the agent has not: only the door may look at it.
ip netns del web
unshare --net setpriv --pdeathsig KILL sleep 60 &
sleep 0.3
ripstop attach web --pid $!
until_ok nsenter --net=/proc/$!/ns/net sh -c 'ip -br link | grep -q rs-'
ip netns add web; ip -n web link set lo up
ripstop attach web
until_ok call

# A door that is killed, an agent that is killed, one that is restarted.
kill -9 $(pgrep -f 'ripstop door')
until_ok pgrep -f 'ripstop door'
ip netns del web; ip netns add web; ip -n web link set lo up
until_ok call
systemctl kill -s KILL ripstop.service
until_ok call
systemctl restart ripstop.service
until_ok call

# Another agent takes over, from the unit and from a shell, while a session goes on. Nothing that is asked meanwhile fails.
session() { ripstop exec web python3 -c "
import os, socket, time
s = socket.create_connection(('api.main.lab.test', 8080)); open('/tmp/open', 'w')
while not os.path.exists('/tmp/go'): time.sleep(0.05)
s.sendall(b'GET / HTTP/1.0\r\n\r\n'); assert b' 200 ' in s.recv(100); open('/tmp/done', 'w')"; }
session & until_ok test -e /tmp/open
upgraded() { before=$(agent); "$@"; test $(agent) != $before; grep -q ripstop.service /proc/$(agent)/cgroup; call; }
upgraded systemctl reload ripstop.service
rights next $(agent)
upgraded ripstop upgrade
touch /tmp/go; until_ok test -e /tmp/done
gone() { ! test -e /proc/$1; }

# One that cannot start changes nothing; nor one that would be started from elsewhere.
before=$(agent)
cp /etc/ripstop/agent.yaml /tmp/agent.yaml; echo 'colour: red' >> /etc/ripstop/agent.yaml
fails systemctl reload ripstop.service
cp /tmp/agent.yaml /etc/ripstop/agent.yaml
touch /tmp/other; mount --bind /usr/local/bin/ripstop /tmp/other
fails /tmp/other upgrade
test $(agent) = $before
call

# The one that took over is the unit's main process: it is missed when it is killed, and restarted.
systemctl kill -s KILL --kill-whom=main ripstop.service
until_ok call
until_ok gone $before
systemctl restart ripstop.service
until_ok call

# One that hangs is started anew, also one that took over; one that lives is left alone.
systemctl show -P StatusText ripstop.service | grep '^host alpha of lab.test, policy '
mkdir /etc/systemd/system/ripstop.service.d; printf '[Service]\nWatchdogSec=2s\n' > /etc/systemd/system/ripstop.service.d/soon.conf
systemctl daemon-reload; systemctl restart ripstop.service
upgraded systemctl reload ripstop.service
before=$(agent); sleep 4; test $(agent) = $before
kill -STOP $before
anew() { test $(agent) != $before && call; }
until_ok anew

systemctl stop ripstop.service
fails attached web
fails attached api
fails test -e /etc/netns/web
fails test -e /etc/netns/api
until_ok none
test "$(systemctl show -P Result ripstop.service)" = success
echo ALL DONE
"#;

/// Gone with its processes, which end with `unshare`.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_packaged_units_do_all_that_an_agent_does() {
    assert!(Path::new("/lib/systemd/systemd").exists(), "systemd is missing: apt-get install systemd");
    let directory = Directory(std::env::temp_dir().join(format!("ripstop-units-{}", std::process::id())));
    fs::create_dir_all(&directory.0).unwrap();
    fs::write(directory.0.join("told.sh"), TOLD).unwrap();
    let apart = ["--net", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--fork", "--kill-child=KILL"];
    let output = Command::new("timeout")
        .args(["--signal=KILL", SECONDS, "setpriv", "--pdeathsig", "KILL", "unshare"])
        .args(apart)
        .args(["bash", "-c", BOOT, "boot"])
        .arg(&directory.0)
        .arg(ripstop())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = fs::read_to_string(directory.0.join("said")).unwrap_or_default();
    let booted = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(said.ends_with("ALL DONE\n"), "{booted}\n{said}");
    let rights = |of: &str| said.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix(' ')).unwrap().trim();
    assert_eq!(rights("RIGHTS agent"), "0000000000001000 0000000000001000 1 2");
    assert_eq!(rights("RIGHTS next"), rights("RIGHTS agent"));
    assert_eq!(rights("RIGHTS door"), "0000000000281000 0000000000281000 1 2");
}
