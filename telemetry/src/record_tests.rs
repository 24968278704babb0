use super::{example::record, *};
use std::{io::Read as _, os::unix::fs::PermissionsExt as _};

const LONG: Duration = Duration::from_secs(20);

#[test]
fn every_record_is_written_once_and_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.jsonl");
    let log = RecordLog::start(&SessionLog::File(path.clone()), None).unwrap();
    let threads: Vec<_> = (0..4_u64)
        .map(|lane| {
            let log = log.clone();
            thread::spawn(move || (0..2_500).for_each(|n| log.reserve().unwrap().write(record(lane * 10_000 + n))))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    log.finish(LONG).unwrap();

    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 10_000);
    for lane in 0..4_u64 {
        let ours = lines.iter().map(|line| line["bytes_up"].as_u64().unwrap()).filter(|n| n / 10_000 == lane);
        assert!(ours.eq((0..2_500).map(|n| lane * 10_000 + n)), "lane {lane} is out of order");
    }
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(log.unwritten.load(Ordering::Relaxed), 0);
}

#[test]
fn a_record_reads_as_documented() {
    let line = serde_json::to_value(record(7)).unwrap();
    assert_eq!(line["start"], "1970-01-01T00:00:00Z");
    assert_eq!(line["duration_s"], 0.123_457);
    assert_eq!(line["side"], "caller");
    assert_eq!(line["protocol"], "tcp");
    assert_eq!(line["caller"], "shop/web");
    assert_eq!(line["reason"], "closed");
    assert!(line["endpoint"].is_null());
}

#[test]
fn slots_are_bounded_and_come_back() {
    let log = RecordLog::start_with(at_once(), None, 2, None).unwrap();
    let (first, second) = (log.reserve().unwrap(), log.reserve().unwrap());
    assert!(log.reserve().is_none(), "a third session cannot be recorded, so it is refused");
    first.release();
    let third = log.reserve().unwrap();
    second.write(record(1));
    third.write(record(2));
    log.finish(LONG).unwrap();
    assert!(log.reserve().is_some());
}

#[test]
fn a_writer_that_has_fallen_behind_refuses_new_sessions() {
    let log = RecordLog::start_with(at_once(), None, 4, None).unwrap();
    log.unwritten.fetch_add(UNWRITTEN_MAX, Ordering::Relaxed);
    assert!(log.reserve().is_none());
    log.unwritten.fetch_sub(1, Ordering::Relaxed);
    log.reserve().unwrap().release();
}

#[test]
fn a_record_is_to_be_had_and_on_disk_without_finish() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.jsonl");
    let log = RecordLog::start(&SessionLog::File(path.clone()), None).unwrap();
    log.reserve().unwrap().write(record(9));
    let deadline = std::time::Instant::now() + LONG;
    while std::fs::read_to_string(&path).unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "an idle writer writes out");
        thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(log.recent().since(None, |_| true).records[0].bytes_up, 9);
}

#[test]
fn records_for_standard_output_wait_until_it_is_known() {
    let (until, after) = std_mpsc::sync_channel(0);
    let log = RecordLog::start_with(after, Some(Sink::Stdout(None)), 10, None).unwrap();
    log.reserve().unwrap().write(record(1));
    assert!(log.finish(3 * GATHER).is_err(), "it is not known yet");
    assert_eq!(log.unwritten.load(Ordering::Relaxed), 1);
    drop(until);
    let deadline = std::time::Instant::now() + LONG;
    while log.unwritten.load(Ordering::Relaxed) > 0 {
        assert!(std::time::Instant::now() < deadline, "now it is");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn whole_lines_go_into_a_pipe_at_once() {
    let line = [&[b'x'; 1_500][..], b"\n"].concat();
    let (short, long) = (line.repeat(2), line.repeat(9));
    assert_eq!(whole_lines(&short).len(), 3_002);
    assert_eq!(whole_lines(&long).len(), 3_002);
    assert_eq!(whole_lines(&[&[b'x'; 4_095][..], b"\n", &line].concat()).len(), 4_096);
    let larger = [&[b'x'; 5_000][..], b"\n", &line].concat();
    assert_eq!(whole_lines(&larger).len(), 5_001, "one that does not fit");
    assert!(whole_lines(b"").is_empty());
}

#[test]
fn a_reader_that_goes_away_blocks_nobody() {
    let (mut reader, writer) = io::pipe().unwrap();
    let sink = Sink::File(File::from(std::os::fd::OwnedFd::from(writer)));
    let log = RecordLog::start_with(at_once(), Some(sink), 100, None).unwrap();
    log.reserve().unwrap().write(record(1));
    let mut one = [0; 1];
    reader.read_exact(&mut one).unwrap();
    drop(reader);
    for number in 0..1_000 {
        loop {
            if let Some(slot) = log.reserve() {
                break slot.write(record(number));
            }
            thread::yield_now();
        }
    }
    log.finish(LONG).unwrap();
}

#[test]
fn a_missing_directory_is_said_plainly() {
    let error =
        RecordLog::start(&SessionLog::File("/nonexistent/sessions.jsonl".into()), None).unwrap_err().to_string();
    assert!(error.contains("/nonexistent/sessions.jsonl") && error.contains("`sessions:`"), "{error}");
}

#[test]
fn a_full_disk_loses_nothing_and_is_told_at_the_end() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let log = RecordLog::start_with(at_once(), Some(Sink::File(full)), 10, None).unwrap();
    log.reserve().unwrap().write(record(1));
    let error = log.finish(Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, RecordError::Unfinished(1)), "{error}");
}
