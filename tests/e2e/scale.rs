//! Ten thousand open sessions.

use crate::lab::{Lab, wait_for};
use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

const SESSIONS: usize = 10_000;
/// What an idle session may cost one agent, in bytes: a number that is always true of the release build.
const IDLE_BYTES: u64 = 16 * 1024;
/// The same for cargo's unoptimised build, whose futures are larger.
const IDLE_BYTES_UNOPTIMISED: u64 = 24 * 1024;

/// An echo server that holds ten thousand connections in one process, which is not the test's: it may open 20 000 files.
const ECHO: &str = "
import asyncio
async def serve(reader, writer):
    try:
        while data := await reader.read(4096):
            writer.write(data)
            await writer.drain()
    except ConnectionError: pass
    writer.close()
async def main():
    server = await asyncio.start_server(serve, '0.0.0.0', 8080, backlog=4096)
    await server.serve_forever()
asyncio.run(main())
";

fn echo(stream: &mut TcpStream, said: &str) {
    stream.write_all(said.as_bytes()).unwrap();
    let mut back = vec![0; said.len()];
    stream.read_exact(&mut back).unwrap();
    assert_eq!(back, said.as_bytes());
}

#[test]
fn ten_thousand_sessions_stay_open() {
    let lab = Lab::shop();
    let python = ["/usr/bin/python3", "-c", ECHO];
    let _server = lab.workload("api").spawn(&lab.file("echo.log"), &python).listening(8080);
    let limit = if std::env::var_os("RIPSTOP_LAB_BINARY").is_some() { IDLE_BYTES } else { IDLE_BYTES_UNOPTIMISED };
    let before = ["alpha", "beta"].map(|host| lab.agent(host).resident());
    let to = lab.service("shop/api", 8080);
    let start = Instant::now();
    let mut streams: Vec<TcpStream> = lab.workload("web").inside(|| {
        let open = |n| TcpStream::connect(to).unwrap_or_else(|error| panic!("session {n}: {error}"));
        (0..SESSIONS).map(open).collect()
    });
    println!("{SESSIONS} sessions opened in {:?}", start.elapsed());
    wait_for("all to be counted", || lab.agent("alpha").status()["sessions_open"] == SESSIONS);
    for (host, before) in ["alpha", "beta"].iter().zip(before) {
        let each = lab.agent(host).resident().saturating_sub(before) / SESSIONS as u64;
        println!("{host}: {each} bytes for each idle session, {} descriptors", lab.agent(host).descriptors());
        assert!(each <= limit, "an idle session costs {each} bytes on {host}");
    }
    for (n, stream) in streams.iter_mut().enumerate().step_by(97) {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        echo(stream, &format!("session {n:05}"));
    }
    for n in 0..3_000 {
        echo(&mut streams[0], &format!("number {n:04}"));
    }
    let before = ["alpha", "beta"].map(|host| lab.agent(host).processor_time());
    thread::sleep(Duration::from_secs(1));
    for (host, before) in ["alpha", "beta"].iter().zip(before) {
        let took = lab.agent(host).processor_time() - before;
        println!("{host}: {took:?} of processor time in a second in which nothing is said");
        assert!(took < Duration::from_millis(200), "{host} does not sleep: {took:?} in a second");
    }
    drop(streams);
    wait_for("all to be gone", || lab.agent("alpha").status()["sessions_open"] == 0);
    lab.agent("alpha").wait_records(SESSIONS, |_| true);
    lab.agent("beta").wait_records(SESSIONS, |_| true);
}
