//! Real servers, configured to run in a workload without touching the machine.

use crate::lab::{Lab, Place, Server};
use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, TcpStream},
    os::unix::fs::chown,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

/// nginx on port 8080 of both families: files from `www-NAME`, and `/who` that answers NAME.
pub fn nginx(lab: &Lab, place: &Place, name: &str) -> Server {
    let home = lab.file(&format!("nginx-{name}"));
    let www = home.join("www");
    fs::create_dir_all(&www).unwrap();
    fs::write(www.join("index.html"), "hello from nginx\n").unwrap();
    let home_text = home.display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("  {kind}_temp_path {home_text}/{kind};\n"))
        .collect();
    let config = format!(
        "daemon off;\nuser root;\npid {home_text}/pid;\nerror_log stderr;\nworker_processes 1;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n  access_log off;\n{temporary}  keepalive_requests 100000;\n  sendfile on;\n\
         server {{\n    listen 8080 reuseport; listen [::]:8080 reuseport; root {home_text}/www;\n\
         location = /who {{ return 200 \"{name}\\n\"; }}\n  }}\n}}\n"
    );
    let file = home.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let line = ["nginx", "-p", &home.display().to_string(), "-e", "stderr", "-c", &file.display().to_string()];
    place.spawn(&home.join("log"), &line).listening(8080)
}

/// The directory that [`nginx`] serves.
pub fn www(lab: &Lab, name: &str) -> PathBuf {
    lab.file(&format!("nginx-{name}/www"))
}

/// A file with so many random bytes; returns its SHA-256.
pub fn random_file(path: &std::path::Path, bytes: u64) -> String {
    let script = format!("head -c {bytes} /dev/urandom > {0}; sha256sum < {0}", path.display());
    let output = Command::new("sh").args(["-ec", &script]).output().unwrap();
    assert!(output.status.success());
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or("").to_owned()
}

/// PostgreSQL 15 or whatever Debian has, on port 5432, a fresh cluster, trusting everyone.
pub fn postgresql(lab: &Lab, place: &Place) -> Server {
    let home = lab.file("postgresql");
    fs::create_dir_all(&home).unwrap();
    let user = |what: &str| -> u32 { place.ok(&["id", what, "postgres"]).trim().parse().unwrap() };
    let (uid, gid) = (user("-u"), user("-g"));
    chown(&home, Some(uid), Some(gid)).unwrap();
    let bin = place.sh("ls -d /usr/lib/postgresql/*/bin | tail -1");
    let bin = bin.trim();
    let data = home.join("data").display().to_string();
    let as_postgres = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"];
    let init = format!("{bin}/initdb");
    place
        .ok(&[&as_postgres[..], &[&init, "-D", &data, "-A", "trust", "-U", "postgres", "-N", "--no-instructions"]]
            .concat());
    let hba = PathBuf::from(&data).join("pg_hba.conf");
    fs::write(&hba, "host all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n").unwrap();
    chown(&hba, Some(uid), Some(gid)).unwrap();
    let serve = format!("{bin}/postgres");
    let options = ["-D", &data, "-h", "*", "-k", "", "-c", "fsync=off", "-c", "shared_buffers=16MB"];
    place.spawn(&lab.file("postgresql.log"), &[&as_postgres[..], &[&serve], &options].concat()).listening(5432)
}

/// Redis on port 6379.
pub fn redis(lab: &Lab, place: &Place) -> Server {
    let options =
        ["--port", "6379", "--bind", "*", "-::*", "--protected-mode", "no", "--save", "", "--appendonly", "no"];
    let dir = lab.path("");
    place.spawn(&lab.file("redis.log"), &[&["redis-server"][..], &options, &["--dir", &dir]].concat()).listening(6379)
}

/// iperf3 on port 5201.
pub fn iperf3(lab: &Lab, place: &Place) -> Server {
    place.spawn(&lab.file("iperf3.log"), &["iperf3", "-s", "-p", "5201"]).listening(5201)
}

/// An SSH server on port 22 with a key of its own; returns the client's options.
pub fn sshd(lab: &Lab, place: &Place) -> (Server, Vec<String>) {
    let home = lab.file("sshd");
    fs::create_dir_all(&home).unwrap();
    let path = |name: &str| home.join(name).display().to_string();
    for key in ["host_key", "user_key"] {
        place.ok(&["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", &path(key)]);
    }
    let config = format!(
        "Port 22\nListenAddress 0.0.0.0\nListenAddress ::\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
         PermitRootLogin yes\nPasswordAuthentication no\nUseDNS no\nPrintMotd no\nPrintLastLog no\n",
        path("host_key"),
        path("user_key.pub")
    );
    fs::write(home.join("config"), config).unwrap();
    let server = place.spawn(&home.join("log"), &["/usr/sbin/sshd", "-D", "-e", "-f", &path("config")]).listening(22);
    let options = [
        "-i",
        &path("user_key"),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        &format!("UserKnownHostsFile={}", path("known_hosts")),
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=10",
    ];
    (server, options.iter().map(ToString::to_string).collect())
}

/// Echoes everything and ends when the caller does.
pub fn echo(mut stream: TcpStream) {
    let mut reader = stream.try_clone().unwrap();
    let _ = std::io::copy(&mut reader, &mut stream);
    let _ = stream.shutdown(std::net::Shutdown::Write);
}

/// Says a line before the caller has said anything.
pub fn greet(line: &'static str) -> impl Fn(TcpStream) + Send + Clone + 'static {
    move |mut stream| {
        let _ = stream.write_all(line.as_bytes());
    }
}

/// A small HTTP server: answers each connection's one request with NAME after a pause, with a status that can be changed,
/// and keeps what it was asked and by whom.
#[derive(Clone)]
pub struct Http {
    name: &'static str,
    pause: Duration,
    /// The status of its answers.
    pub status: Arc<AtomicU16>,
    /// Every request's head, and the address it came from.
    pub asked: Arc<Mutex<Vec<(String, IpAddr)>>>,
}

impl Http {
    pub fn new(name: &'static str, pause: Duration) -> Self {
        Self { name, pause, status: Arc::new(AtomicU16::new(200)), asked: Arc::default() }
    }

    /// For [`Place::serve`].
    pub fn handler(&self) -> impl Fn(TcpStream) + Send + Clone + 'static {
        let this = self.clone();
        move |stream| drop(this.answer(stream))
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            head.extend(byte);
        }
        let from = stream.peer_addr()?.ip().to_canonical();
        self.asked.lock().unwrap().push((String::from_utf8_lossy(&head).into_owned(), from));
        std::thread::sleep(self.pause);
        let (status, name) = (self.status.load(Ordering::Relaxed), self.name);
        let length = name.len();
        write!(stream, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{name}")
    }
}
