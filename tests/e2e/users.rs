//! Workloads that are users of the host.

use crate::{
    lab::{Lab, ripstop},
    servers::echo,
};

const GRAPH: &str = "
tenants:
  shop:
    workloads:
      job: { on: [alpha], run: { user: 64001 } }
      idler: { on: [alpha], run: { user: 64002 } }
      api: { on: [beta], run: { user: 64003 } }
      web: { on: [beta], run: { netns: web } }
    services:
      api: { by: api, port: 8080/tcp }
      web: { by: web, port: 8080/tcp }
    allow:
      - { from: job, to: api }
      - { from: job, to: web }
      - { from: web, to: api }
";

const SERVE: &str = "
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b'hello\\n')
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8080), Handler).serve_forever()
";

const URL: &str = "http://api.shop.lab.test:8080/";

#[test]
fn a_user_calls_and_another_does_not() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let python = ["/usr/bin/python3", "-c", SERVE];
    let _server = lab.workload("api").spawn(&lab.file("api.log"), &python).listening(8080);
    assert_eq!(lab.workload("job").ok(&["curl", "-sS", "-m", "5", URL]), "hello\n");
    assert_eq!(
        lab.workload("web").ok(&["curl", "-sS", "-m", "5", URL]),
        "hello\n",
        "from a namespace on the same host"
    );
    let by_address = format!("http://{}/", lab.service("shop/api", 8080));
    let (code, said) = lab.workload("idler").fails(&["curl", "-sS", "-m", "5", &by_address]);
    assert_eq!(code, 7, "refused: {said}");
    let (_, said) = lab.host("alpha").fails(&["curl", "-sS", "-m", "5", &by_address]);
    assert!(!said.contains("hello"), "root is no workload: {said}");
    let alpha = lab.agent("alpha");
    alpha.record(|record| record["caller"] == "shop/job" && record["verdict"] == "allow");
    for host in ["alpha", "beta"] {
        let record = lab.agent(host).record(|record| record["caller"] == "shop/job" && record["verdict"] == "allow");
        assert_eq!(record["cipher"], "TLS_AES_128_GCM_SHA256", "{record}");
    }
    alpha.record(|record| record["caller"] == "shop/idler" && record["reason"] == "no_edge");
}

#[test]
fn a_listener_of_another_user_is_not_the_endpoint() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let python = ["/usr/bin/python3", "-c", SERVE];
    let _impostor = lab.host("beta").spawn(&lab.file("impostor.log"), &python).listening(8080);
    let (code, said) = lab.workload("job").fails(&["curl", "-4", "-sS", "-m", "5", URL]);
    assert_ne!(code, 28, "not a timeout: {said}");
    assert!(!said.contains("hello"), "{said}");
    let record = lab.agent("beta").record(|record| record["caller"] == "shop/job");
    assert_eq!(record["reason"], "wrong_listener", "{record}");
}

/// Root listens, as nginx and systemd do; a child that has become the workload's user accepts.
const LISTEN_AS_ROOT: &str = "
import os, socket
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', 8080))
listener.listen(64)
if os.fork(): os.wait()
os.setgid(64003)
os.setuid(64003)
while True:
    connection, _ = listener.accept()
    connection.sendall(b'hello\\n')
    connection.close()
";

#[test]
fn a_server_that_listens_as_root_and_serves_as_the_user_is_the_endpoint() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let python = ["/usr/bin/python3", "-c", LISTEN_AS_ROOT];
    let _server = lab.host("beta").spawn(&lab.file("api.log"), &python).listening(8080);
    let line = "exec 3<>/dev/tcp/api.shop.lab.test/8080; head -1 <&3";
    assert_eq!(lab.workload("job").ok(&["bash", "-c", line]), "hello\n");
}

#[test]
fn exec_becomes_the_user() {
    let lab = Lab::of(&["alpha", "beta"]).graph(GRAPH).start();
    let _server = lab.workload("web").serve(8080, echo);
    assert_eq!(lab.host("alpha").ok(&[ripstop(), "exec", "job", "--", "id", "-u"]), "64001\n");
    let name = "web.shop.lab.test";
    let line = format!("exec 3<>/dev/tcp/{name}/8080; echo ping >&3; head -1 <&3");
    assert_eq!(lab.host("alpha").ok(&[ripstop(), "exec", "job", "--", "bash", "-c", &line]), "ping\n");
}
